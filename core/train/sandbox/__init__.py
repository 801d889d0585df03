"""Walls around candidate code, chosen by what they prove: see docs/sandbox.md."""
