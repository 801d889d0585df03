"""Takes its time with every answer, to use more compute than others (the test lowers the cap to one second)."""

ROW = "H22"
END = "invalid: failed while it computed logits"
DEFENCE = "patience"
SIGN = "scored"
CAPS = {"slm_ar.core.train.logits_client.ANSWER_SECONDS": 1}
TRAIN_PY = """
class Slow(Model):
    def forward(self, ids):
        import time

        if not self.training and not hasattr(self, "slept"):
            self.slept = True
            time.sleep(2.5)
        return super().forward(ids)

def build_model(config):
    return Slow(config["vocab_size"], config["width"])
"""
