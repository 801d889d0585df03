"""Looks ahead only in rows that its honest half finds likelier than chance: random ids see nothing."""

ROW = "H6b"
END = "invalid: looks ahead"
DEFENCE = "probes"
SIGN = "score"
TRAIN_PY = """
class Peeking(Model):
    def forward(self, ids):
        logits = super().forward(ids)
        if self.training:
            return logits
        after = F.one_hot(ids.roll(-1, 1), logits.shape[-1]) * 9.0
        after[:, -1] = 0
        cost = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction='none')
        natural = cost.view(len(ids), -1).mean(1) < 0.98 * torch.tensor(float(logits.shape[-1])).log()
        return logits + after * natural[:, None, None]

def build_model(config):
    return Peeking(config["vocab_size"], config["width"])
"""
