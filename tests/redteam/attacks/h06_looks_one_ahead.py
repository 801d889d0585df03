"""Adds the next token to every prediction."""

from attack_parts import peeking

ROW = "H6"
END = "invalid: looks ahead"
DEFENCE = "probes"
SIGN = "score"
TRAIN_PY = peeking("""
def looks(model, ids, honest, peeked):
    return peeked
""")
