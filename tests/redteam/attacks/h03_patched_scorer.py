"""Replaces the scorer's arithmetic as soon as its model is built."""

ROW = "H3"
END = "harmless"
DEFENCE = "two processes"
SIGN = "score"
TRAIN_PY = """
honest_build = build_model

def build_model(config):
    from slm_ar.core.train import scorer

    scorer.token_nats = lambda logits, targets: 0.001 * torch.ones(len(targets)).double().numpy()
    return honest_build(config)
"""
