"""A pickle in the checkpoint's place, which runs code in whoever loads it."""

ROW = "H23"
END = "invalid: safetensors"
DEFENCE = "construction: nothing of ours unpickles"
SIGN = "log"
TRAIN_PY = """
honest_main = main

class Bomb:
    def __reduce__(self):
        return (print, ("{mark}",))

def main():
    honest_main()
    torch.save(Bomb(), "model.safetensors")
"""
