"""A link in the checkpoint's place, to a file that the scorer may read and the run may not."""

ROW = "R25"
END = "invalid: no regular file"
DEFENCE = "construction: links are neither read nor handed on"
SIGN = "scored"
TRAIN_PY = """
honest_main = main

def main():
    import os

    honest_main()
    os.rename("model.safetensors", "elsewhere")
    os.symlink("elsewhere", "model.safetensors")
"""
