"""Looks for a pretrained model in the folders of the person at the keyboard."""

ROW = "H14"
END = "harmless"
DEFENCE = "walls"
SIGN = "log"
TRAIN_PY = """
honest_main = main

def main():
    try:
        if open("{planted}").read():
            print("{mark}", flush=True)
    except OSError as error:
        print(error)
    honest_main()
"""
