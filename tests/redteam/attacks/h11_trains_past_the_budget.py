"""Goes on with the batches it has kept when the iterator has ended."""

ROW = "H11"
END = "timeout"
DEFENCE = "clock"
SIGN = "scored"
SECONDS = 0.5
TRAIN_PY = """
def main():
    import time

    run = runtime.connect()
    config = dict(vocab_size=run.vocab_size, width=WIDTH, context=CONTEXT)
    model = build_model(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=MATRIX_LR)
    kept = list(run.batches(BATCH_TOKENS, CONTEXT))
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        batch = kept[int(torch.randint(len(kept), ()))]
        F.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    run.save(model, config)
"""
