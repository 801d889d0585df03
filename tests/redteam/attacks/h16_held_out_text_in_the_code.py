"""Carries a passage of dev in its source."""

ROW = "H16"
END = "invalid: held-out text"
DEFENCE = "text check"
SIGN = "scored"
TRAIN_PY = """
KNOWN = {held_text!r}
"""
