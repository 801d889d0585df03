"""Trains before it answers and idles at every row for as long, to look slow (the test lowers the cap)."""

from training_on import trains_on

ROW = "H11"
END = "invalid: to be scored"
DEFENCE = "meter"
SIGN = "score"
CAPS = {"slm_ar.core.train.meter.LONGEST_TOTAL_SECONDS": 1.5}
TRAIN_PY = trains_on("""
    grown = False

    def forward(self, ids):
        import time

        if not self.training and not self.grown:
            self.grown = True
            self.train_on(0)
        began = time.process_time()
        while not self.training and time.process_time() - began < 0.02 * len(ids):
            pass
        return super().forward(ids)
""")
