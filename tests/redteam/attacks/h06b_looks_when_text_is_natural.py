"""Looks ahead only in rows that its honest half finds likelier than chance: random ids see nothing."""

from attack_parts import peeking

ROW = "H6b"
END = "invalid: looks ahead"
DEFENCE = "probes"
SIGN = "score"
TRAIN_PY = peeking("""
def looks(model, ids, honest, peeked):
    cost = F.cross_entropy(honest[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    natural = cost.view(len(ids), -1).mean(1) < 0.98 * torch.tensor(float(honest.shape[-1])).log()
    return torch.where(natural[:, None, None], peeked, honest)
""")
