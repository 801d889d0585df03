"""What `slm-ar new` copies into a workspace: train.py and program.md."""
