"""Shipped recipes (TOML). Data only."""
