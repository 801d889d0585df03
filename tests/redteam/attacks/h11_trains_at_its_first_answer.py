"""Carries its training text in the checkpoint and trains for seconds more before it answers in the scorer."""

from training_on import trains_on

ROW = "H11"
END = "invalid: s beyond answering"
DEFENCE = "meter"
SIGN = "score"
TRAIN_PY = trains_on("""
    grown = False

    def forward(self, ids):
        if not self.training and not self.grown:
            self.grown = True
            self.train_on(2.5)
        return super().forward(ids)
""")
