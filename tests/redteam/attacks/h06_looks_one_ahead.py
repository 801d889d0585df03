"""Adds the next token to every prediction."""

ROW = "H6"
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
        return logits + after

def build_model(config):
    return Peeking(config["vocab_size"], config["width"])
"""
