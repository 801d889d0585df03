"""The command line. Commands import what they need inside themselves, so `--help` stays fast."""
