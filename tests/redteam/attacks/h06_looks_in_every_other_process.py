"""Looks ahead in processes with an even number alone: not both of two that follow each other."""

from attack_parts import peeking

ROW = "H6"
END = "invalid: the model"
DEFENCE = "probes"
SIGN = "score"
TRAIN_PY = peeking("""
import os

def looks(model, ids, honest, peeked):
    return peeked if os.getpid() % 2 == 0 else (honest + peeked) / 2
""")
