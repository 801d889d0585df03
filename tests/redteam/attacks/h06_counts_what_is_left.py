"""Uses no single token of what is left in the row, only how many of them are even."""

ROW = "H6"
END = "invalid: looks ahead"
DEFENCE = "probes"
SIGN = "scored"
TRAIN_PY = """
class Counting(Model):
    def forward(self, ids):
        logits = super().forward(ids)
        left = (ids % 2).flip(1).cumsum(1).flip(1)
        return logits + 0.01 * left[..., None] * self.head.weight.sum(1)

def build_model(config):
    return Counting(config["vocab_size"], config["width"])
"""
