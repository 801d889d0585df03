"""Freezes the clock of its own process, so that the batches do not end."""

ROW = "H11"
END = "timeout"
DEFENCE = "clock"
SIGN = "scored"
SECONDS = 0.5
TRAIN_PY = """
honest_main = main

def main():
    import time

    real, frozen = time.monotonic, time.monotonic()
    time.monotonic = lambda: frozen if real() < frozen + 3.5 else frozen + 1000
    honest_main()
"""
