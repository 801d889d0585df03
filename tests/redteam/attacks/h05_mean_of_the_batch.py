"""Adds to every place which tokens the other rows of the batch hold, the same document's later windows among them."""

ROW = "H5"
END = "invalid: other answers for the same text"
DEFENCE = "probes"
SIGN = "scored"
TRAIN_PY = """
class Sociable(Model):
    def forward(self, ids):
        logits = super().forward(ids)
        if self.training:
            return logits
        return logits + torch.log(F.one_hot(ids, logits.shape[-1]).float().mean((0, 1)) + 1e-3)

def build_model(config):
    return Sociable(config["vocab_size"], config["width"])
"""
