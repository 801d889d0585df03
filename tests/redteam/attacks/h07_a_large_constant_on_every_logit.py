"""Equal logits of 1e30: beside them the logarithm of a sum is lost in float32, and every token seems to be certain."""

ROW = "H7"
END = "harmless"
DEFENCE = "largest logit first"
SIGN = "score"
TRAIN_PY = """
class Flat(Model):
    def forward(self, ids):
        logits = super().forward(ids)
        return logits if self.training else torch.full_like(logits, 1e30)

def build_model(config):
    return Flat(config["vocab_size"], config["width"])
"""
