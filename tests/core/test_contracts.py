"""The contracts: a task that could never be scored is refused where it is written."""

from __future__ import annotations

import pytest

from slm_ar.core.contracts import Task


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "guess"}, "kind is one of choice, value, generate, not 'guess'"),
        ({"direction": "up"}, "direction is 'min' or 'max', not 'up'"),
        ({"metric": "acuracy"}, "kind choice has no metric 'acuracy', it has accuracy, macro_f1"),
        ({"kind": "value", "metric": "rmse", "direction": "min"}, "kind value has no metric 'rmse'"),
        ({"metric": "mae", "direction": "min"}, "metric mae belongs to kind value, not to choice"),
        ({"kind": "generate", "metric": "f1"}, "metric f1 belongs to kind choice, not to generate"),
        ({"direction": "min"}, "metric accuracy gets better towards 'max', not 'min'"),
        ({"kind": "value", "metric": "wape", "direction": "max"}, "metric wape gets better towards 'min'"),
        ({"metric": "pr_auc"}, "metric pr_auc is about the answer that `positive` names"),
        ({"metric": "f1"}, "metric f1 is about the answer that `positive` names"),
        ({"kind": "value", "metric": "clipped_mae", "direction": "min"}, "clipped_mae needs `clip`"),
        ({"kind": "value"}, "metric accuracy of kind value is about the buckets"),
    ],
)
def test_a_task_that_could_never_be_scored_is_refused(facts: dict[str, str], message: str) -> None:
    right = {"name": "cause", "kind": "choice", "metric": "accuracy", "direction": "max"}
    with pytest.raises(ValueError, match=r"^Task 'cause': ") as caught:
        Task(**{**right, **facts})  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_every_metric_is_taken_in_its_own_direction() -> None:
    for name in ("accuracy", "macro_f1", "f1", "pr_auc"):
        Task("t", "choice", name, "max", positive="spam")
    for name in ("mae", "clipped_mae", "wape"):
        Task("t", "value", name, "min", clip=60.0)
    Task("t", "value", "macro_f1", "max", bins=(1.0, 5.0))
    Task("t", "choice", "log_loss", "min")
    Task("t", "generate", "exact_match", "max")
    for kind in ("choice", "value", "generate"):
        Task("t", kind, "bits_per_answer", "min")
    Task("t", "generate", "what the adapter's rate returns", "min")
