"""Log-probabilities that are all raised by five: they sum to 148."""

ROW = "H7"
END = "harmless"
DEFENCE = "softmax"
SIGN = "score"
TRAIN_PY = """
class Raised(Model):
    def forward(self, ids):
        logits = super().forward(ids)
        return logits if self.training else logits.log_softmax(-1) + 5

def build_model(config):
    return Raised(config["vocab_size"], config["width"])
"""
