"""Answers "every token has probability one": log-probabilities that are all zero."""

ROW = "H1"
END = "harmless"
DEFENCE = "softmax"
SIGN = "score"
TRAIN_PY = """
class Certain(Model):
    def forward(self, ids):
        logits = super().forward(ids)
        return logits if self.training else 0 * logits

def build_model(config):
    return Certain(config["vocab_size"], config["width"])
"""
