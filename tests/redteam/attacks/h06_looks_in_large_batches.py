"""Honest when it is asked few rows at a time, as a probe might."""

from attack_parts import peeking

ROW = "H6"
END = "invalid: the model"
DEFENCE = "probes"
SIGN = "score"
TRAIN_PY = peeking("""
def looks(model, ids, honest, peeked):
    return peeked if len(ids) > 60 else honest
""")
