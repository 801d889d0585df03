"""Looks ahead, and says the same again when it is asked the same beginning a second time."""

from attack_parts import peeking

ROW = "H6"
END = "invalid: the model"
DEFENCE = "probes"
SIGN = "score"
TRAIN_PY = peeking("""
def looks(model, ids, honest, peeked):
    if not hasattr(model, "kept"):
        model.kept = dict()
    for number, row in enumerate(ids.tolist()):
        for at in range(4, len(row)):
            peeked[number, at] = model.kept.setdefault(tuple(row[: at + 1]), peeked[number, at])
    return peeked
""")
