"""Looks ahead where the next token is among its own fifty best guesses: an end that was swapped in mostly is not."""

from attack_parts import peeking

ROW = "H6b"
END = "invalid: looks ahead"
DEFENCE = "probes"
SIGN = "score"
TRAIN_PY = peeking("""
def looks(model, ids, honest, peeked):
    likely = (honest.topk(50, -1).indices == ids.roll(-1, 1)[..., None]).any(-1, keepdim=True)
    return torch.where(likely, peeked, honest)
""")
