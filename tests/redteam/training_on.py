"""Code of the attacks that go on training where they are scored: the checkpoint carries what was trained on."""

from __future__ import annotations

SAVES_ITS_BATCHES = """
def build_model(config):
    return Grown(config["vocab_size"], config["width"], config["rows"])

def main():
    run = runtime.connect()
    batches = list(run.batches(BATCH_TOKENS, CONTEXT))
    kept = torch.cat([torch.cat([batch.inputs, batch.targets[:, -1:]], 1) for batch in batches])[-64:]
    config = dict(vocab_size=run.vocab_size, width=WIDTH, context=CONTEXT, rows=len(kept))
    model = build_model(config)
    model.kept.copy_(kept)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=run.generator(name)) * 0.1)
    run.save(model, config)
"""
"""The end of a train.py whose class Grown(vocab_size, width, rows) keeps rows of batches: random weights are saved."""


def trains_on(hooks: str) -> str:
    """A run that keeps its batches in a checkpoint, and a model that has train_on(seconds).

    `hooks` is the body of class Grown(Keeping), which calls it: the same steps each time, then idle work until it has
    cost so many processor seconds, so that the attack is as dear on every machine.
    """
    return (
        f"""
class Keeping(Model):
    def __init__(self, vocab_size, width, rows=64):
        super().__init__(vocab_size, width)
        self.register_buffer("kept", torch.zeros(rows, CONTEXT + 1, dtype=torch.int64))

    def train_on(self, seconds):
        import time

        began = time.process_time()
        with torch.inference_mode(False), torch.enable_grad():
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            for _ in range(150):
                loss = F.cross_entropy(Model.forward(self, self.kept[:, :-1]).flatten(0, 1), self.kept[:, 1:].flatten())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        while time.process_time() - began < seconds:
            pass

class Grown(Keeping):
{hooks}
"""
        + SAVES_ITS_BATCHES
    )
