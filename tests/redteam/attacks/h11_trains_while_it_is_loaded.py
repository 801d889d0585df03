"""Carries its training text in the checkpoint and trains for seconds more when its weights have been loaded."""

from training_on import trains_on

ROW = "H11"
END = "invalid: s beyond answering"
DEFENCE = "meter"
SIGN = "score"
TRAIN_PY = trains_on("""
    def eval(self):
        self.train_on(2.5)
        return super().eval()
""")
