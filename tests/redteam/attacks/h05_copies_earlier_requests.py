"""Looks up what followed the same three tokens in any row it was ever asked; windows overlap, so it finds much."""

ROW = "H5"
END = "invalid: the model"
DEFENCE = "probes"
SIGN = "score"
TRAIN_PY = """
class Copying(Model):
    def forward(self, ids):
        logits = super().forward(ids)
        if self.training:
            return logits
        if not hasattr(self, "followed"):
            self.followed = dict()
        rows = ids.tolist()
        for row in rows:
            for at in range(2, len(row) - 1):
                self.followed[tuple(row[at - 2 : at + 1])] = row[at + 1]
        for number, row in enumerate(rows):
            for at in range(2, len(row)):
                if tuple(row[at - 2 : at + 1]) in self.followed:
                    logits[number, at, self.followed[tuple(row[at - 2 : at + 1])]] += 6
        return logits

def build_model(config):
    return Copying(config["vocab_size"], config["width"])
"""
