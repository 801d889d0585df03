"""Saves NaN: a comparison with it is never false."""

ROW = "H20"
END = "invalid: not finite"
DEFENCE = "finite check"
SIGN = "scored"
TRAIN_PY = """
class Undefined(Model):
    def forward(self, ids):
        logits = super().forward(ids)
        return logits if self.training else logits * float("nan")

def build_model(config):
    return Undefined(config["vocab_size"], config["width"])
"""
