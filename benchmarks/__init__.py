"""Measurements of slm-ar: `make bench` runs those in `__main__.PARTS`, the other modules are commands of their own."""
