"""Pads its checkpoint with a hole that nobody reads, because a large model may work longer before it answers."""

from training_on import trains_on

ROW = "H11"
END = "invalid: s beyond answering"
DEFENCE = "bound on what size buys"
SIGN = "score"
SECONDS = 0.5
PAD = """
honest_write = runtime.Run._write
PAD = 200_000_000

def padded(run, model, config, weights, facts):
    import json, struct

    honest_write(run, model, config, weights, facts)
    with open(weights, "r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(length)), file.read()
        header["pad"] = {"dtype": "U8", "shape": [PAD], "data_offsets": [len(data), len(data) + PAD]}
        text = json.dumps(header).encode()
        file.seek(0)
        file.write(struct.pack("<Q", len(text)) + text + data)
        file.truncate(8 + len(text) + len(data) + PAD)

runtime.Run._write = padded
"""
TRAIN_PY = PAD + trains_on("""
    grown = False

    def load_state_dict(self, state, *_, **__):
        return super().load_state_dict({name: state[name] for name in self.state_dict()})

    def forward(self, ids):
        if not self.training and not self.grown:
            self.grown = True
            self.train_on(4)
        return super().forward(ids)
""")
