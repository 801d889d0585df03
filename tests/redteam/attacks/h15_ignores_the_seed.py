"""Trains with its own lucky seed, whatever it is given: two seeds give the same model."""

ROW = "H15"
END = "not certifiable"
DEFENCE = "seed check of the gate"
SIGN = "seed"
RUNS = 3
TRAIN_PY = """
honest_connect = runtime.connect

def connect():
    run = honest_connect()
    run.seed = 1234
    return run

runtime.connect = connect
"""
