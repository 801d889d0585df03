"""A model with more parameters than may be (the test lowers the cap below the toy's)."""

ROW = "H22"
END = "invalid: at most 5,000 are allowed"
DEFENCE = "checkpoint inspection"
SIGN = "scored"
CAPS = {"slm_ar.core.train.checkpoint.MOST_PARAMETERS": 5000}
TRAIN_PY = ""
