"""Looks ahead, and says the same again when it is asked the same beginning a second time."""

ROW = "H6"
END = "invalid: the model"
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
        logits = logits + after
        if not hasattr(self, 'kept'):
            self.kept = dict()
        for number, row in enumerate(ids.tolist()):
            for at in range(4, len(row)):
                logits[number, at] = self.kept.setdefault(tuple(row[: at + 1]), logits[number, at])
        return logits

def build_model(config):
    return Peeking(config["vocab_size"], config["width"])
"""
