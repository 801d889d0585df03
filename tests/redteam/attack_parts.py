"""Code that several attacks share, called by their files; an attack that needs none of it is complete without it."""

from __future__ import annotations


def peeking(looks: str) -> str:
    """A model that knows the next token when it is scored.

    `looks` defines looks(model, ids, honest, peeked), which gets the logits without and with that knowledge and
    returns those to answer with.
    """
    return f"""{looks}
class Peeking(Model):
    def forward(self, ids):
        honest = super().forward(ids)
        if self.training:
            return honest
        after = F.one_hot(ids.roll(-1, 1), honest.shape[-1]) * 9.0
        after[:, -1] = 0
        return looks(self, ids, honest, honest + after)

def build_model(config):
    return Peeking(config["vocab_size"], config["width"])
"""


def warm_start(place: str) -> str:
    """A run that looks for what the one before it left, and leaves the same; `place` is an expression for the path."""
    return """
honest_main = main

def main():
    import os

    place = PLACE
    try:
        if open(place).read():
            print("{mark}", flush=True)
    except OSError as error:
        print(error)
    try:
        open(place, "w").write("weights of the run before")
    except OSError as error:
        print(error)
    honest_main()
""".replace("PLACE", place)
