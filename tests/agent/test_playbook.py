"""The playbook: every move on the shipped train.py, alone and on top of the others, built and trained a few steps."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from slm_ar.core.agent.edits import check_train_py, code_lines, parse_knobs, revision_digest, set_knobs, template_digest
from slm_ar.core.agent.proposers import make_proposer
from slm_ar.core.agent.proposers.moves import Rewrite, Turn, next_move, rewrite
from slm_ar.core.agent.proposers.playbook import (
    ADAMW,
    CLIPPING,
    EMBEDDING_NORM,
    FEWER_NEWTON_STEPS,
    LOGIT_CAP,
    PLAYBOOK,
    WINDOWS,
    playbook,
)
from slm_ar.core.agent.proposers.space import Space
from slm_ar.core.contracts import PastExperiment, ResearchContext, Status
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.training_run import TrainJob

TEXT = (Path(__file__).parents[2] / "program_templates" / "train.py").read_text(encoding="utf-8")
REWRITES = [move for move in PLAYBOOK if isinstance(move, Rewrite)]
TURNS = [move for move in PLAYBOOK if isinstance(move, Turn)]
SMALL = {"TARGET_PARAMS_M": 0.05, "CONTEXT": 64, "HEAD_DIM": 16, "BATCH_TOKENS": 512}
VOCABULARY = 96

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Imports a train.py text as a module of its own."""
    names = []

    def loaded(text: str) -> ModuleType:
        path = tmp_path / f"playbook_{len(names)}.py"
        path.write_text(text, encoding="utf-8")
        specification = importlib.util.spec_from_file_location(path.stem, path)
        assert specification is not None and specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[path.stem] = module
        names.append(path.stem)
        specification.loader.exec_module(module)
        return module

    yield loaded
    for name in names:
        del sys.modules[name]


class FakeRun:
    """As much of a run as the functions of train.py ask for."""

    precision = torch.float32
    device = torch.device("cpu")
    vocab_size = VOCABULARY

    def generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(sum(name.encode()))

    token_features = torch.eye(3).repeat(VOCABULARY, 1)[:VOCABULARY]


def made(text: str, move: Rewrite) -> str:
    after = rewrite(text, move)
    assert after is not None, move.title
    return after


def learns_and_is_causal(module: ModuleType) -> None:
    """Build, initialise, take three steps, and compare the logits of two texts that part at the 40th token."""
    config = module.choose_config(VOCABULARY)
    # More than one layer, so that what differs from layer to layer shows.
    config = replace(config, layers=3, width=32, mlp_width=48)
    model = module.build_model(asdict(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    module.initialise(model, FakeRun())
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters()), "initialise() left something out"
    optimizers = module.make_optimizers(model, FakeRun())
    held = [id(item) for optimizer in optimizers for group in optimizer.param_groups for item in group["params"]]
    shared = [parameter for _, parameter in optimizers[-1].pairs]
    assert sorted(held) == sorted(id(parameter) for parameter in (*model.parameters(), *shared))
    torch.manual_seed(0)
    rows = torch.randint(VOCABULARY // 4, (8, 65))
    losses = []
    for step in range(6):
        batch = module.runtime.Batch(rows[:, :-1], rows[:, 1:], 0.1 + 0.1 * step)
        with torch.no_grad():
            losses.append(float(module.F.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten())))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        module.train_step(
            module.runtime.Replicas(model, 1, 1, lambda one, part: module.backward(one, part, FakeRun())),
            optimizers,
            batch,
            FakeRun(),
            3,
        )
    assert losses[-1] < losses[0]
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert all(changed), "a parameter is not trained"
    other = rows[:, :-1].clone()
    other[:, 40:] = torch.randint(VOCABULARY, (8, 24))
    with torch.no_grad():
        logits, others = model(rows[:, :-1]), model(other)
    assert logits.shape == (8, 64, VOCABULARY)
    assert torch.allclose(logits[:, :40], others[:, :40], atol=1e-4)
    assert not torch.allclose(logits[:, 40:], others[:, 40:], atol=1e-3)


def test_the_playbook_holds_what_it_is_said_to_hold() -> None:
    assert (len(TURNS), len(REWRITES)) == (21, 17)
    assert len({move.title for move in PLAYBOOK}) == len(PLAYBOOK)  # titles identify the moves of the past
    assert not any(one.title.startswith(other.title) for one, other in itertools.permutations(PLAYBOOK, 2))
    assert all(len(f"{move.title}: {move.reason}") < 200 and "\n" not in move.reason for move in PLAYBOOK)


def test_a_portable_model_keeps_its_shape() -> None:
    kept = [move.title for move in playbook("portable") if isinstance(move, Rewrite)]
    assert kept == [
        "start the blocks as identities",
        "train the matrices with AdamW",
        "fall along a square root",
        "orthogonalise in fewer steps",
        "read the newest half of train",
        "turn positions faster",
        "clip the gradients",
        "keep the logits' sum near one",
    ]
    assert playbook("best") == PLAYBOOK
    assert [move for move in playbook("portable") if isinstance(move, Turn)] == TURNS


@pytest.mark.parametrize("move", [move for move in REWRITES if not move.reshapes], ids=lambda move: move.title)
def test_a_rewrite_for_portable_models_leaves_parameters_and_what_they_compute(move: Rewrite, load: Load) -> None:
    before, after = load(set_knobs(TEXT, SMALL)), load(set_knobs(made(TEXT, move), SMALL))
    config = asdict(before.choose_config(VOCABULARY))
    models = before.build_model(config), after.build_model(config)
    torch.manual_seed(0)
    weights = {name: torch.randn_like(value) for name, value in models[0].state_dict().items()}
    for model in models:
        model.load_state_dict(weights)
    ids = torch.randint(VOCABULARY, (2, 40))
    with torch.no_grad():
        assert torch.equal(models[0](ids), models[1](ids))


@pytest.mark.parametrize("move", TURNS, ids=lambda move: move.title)
def test_every_turn_names_knobs_that_a_train_py_may_have(move: Turn) -> None:
    others = {"DEPTH", "DROPOUT"}  # knobs of other train.py files
    known = {knob.name for knob in parse_knobs(TEXT)} | others
    assert any(fnmatchcase(name, move.topic) for name in known)


@pytest.mark.parametrize("move", REWRITES, ids=lambda move: move.title)
def test_every_rewrite_fits_the_shipped_code_and_trains(move: Rewrite, load: Load) -> None:
    text = made(TEXT, move)
    check_train_py(text)
    before, after = ({knob.name: knob for knob in parse_knobs(source)} for source in (TEXT, text))
    assert before.keys() <= after.keys()
    assert {name: knob.value for name, knob in after.items() if name in before} == {
        name: knob.value for name, knob in before.items()
    }
    for name in after.keys() - before.keys():  # what is new can be turned
        end = after[name].choices[0] if after[name].choices else after[name].low
        assert end is not None
        set_knobs(text, {name: int(end) if after[name].kind == "int" else end})
    assert template_digest(text) != template_digest(TEXT)
    assert rewrite(text, move) is None  # once is enough
    learns_and_is_causal(load(set_knobs(text, SMALL)))


@pytest.mark.parametrize("move", REWRITES, ids=lambda move: move.title)
def test_a_rewrite_does_not_depend_on_the_values_of_knobs(move: Rewrite) -> None:
    values = {knob.name: knob.choices[-1] if knob.choices else knob.high for knob in parse_knobs(TEXT)}
    assert rewrite(set_knobs(TEXT, {name: value for name, value in values.items() if value is not None}), move)


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "backwards"])
def test_rewrites_on_top_of_each_other_train(order: int, load: Load) -> None:
    text, fits = TEXT, []
    for move in REWRITES[::order]:
        after = rewrite(text, move)
        if after is not None:
            text = after
            fits.append(move)
    assert len(fits) >= 13  # two feed-forward layers, two kinds of blocks, and Muon or its steps exclude each other
    learns_and_is_causal(load(set_knobs(text, SMALL)))


def test_the_harness_trains_and_scores_rewritten_code(executor: LocalExecutor, tmp_path: Path) -> None:
    """All of them at once, in the sandbox, with the probes for models that look ahead or depend on their batch."""
    text = TEXT
    for move in REWRITES:
        text = rewrite(text, move) or text
    run = executor.submit(TrainJob(set_knobs(text, SMALL), 0, None, 6, 60, 4000), tmp_path / "run")
    while (outcome := run.poll()) is None:
        pass
    assert (outcome.status, outcome.reason) == (None, "")
    assert 0 < executor.score(tmp_path / "run", "dev", 64).bits_per_byte < 9


def test_two_rewrites_either_fit_or_leave_the_code_alone() -> None:
    fits = 0
    for first, second in itertools.pairwise([*REWRITES, *REWRITES[::3], *REWRITES[::5]]):
        after = rewrite(made(TEXT, first), second)
        if after is not None:
            fits += 1
            assert undefined_names(after) == set(), (first.title, second.title)
    assert fits > 20


def undefined_names(text: str) -> set[str]:
    """Names of train.py's own functions, classes and constants that are used and no longer defined."""
    tree, before = ast.parse(text), ast.parse(TEXT)
    defined = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    defined |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own = {node.name for node in ast.walk(before) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in ast.walk(before) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return (used & own) - defined


def test_what_nobody_needs_any_more_is_deleted() -> None:
    text = made(TEXT, ADAMW)
    assert "Muon" not in text and "def orthogonal" not in text and "def wide" not in text
    assert code_lines(text) < code_lines(TEXT) - 25
    used = TEXT.replace("def main() -> None:\n", "def main() -> None:\n    print(orthogonal)\n")
    assert "def orthogonal" in made(used, ADAMW)


def test_a_knob_that_turns_nothing_any_more_is_deleted() -> None:
    text = made(made(TEXT, FEWER_NEWTON_STEPS), ADAMW)
    assert {knob.name for knob in parse_knobs(text)} - {knob.name for knob in parse_knobs(TEXT)} == {"ADAM_SHARE"}
    assert text == made(TEXT, ADAMW)
    used = made(TEXT, FEWER_NEWTON_STEPS).replace(
        "def main() -> None:\n", "def main() -> None:\n    print(NEWTON_STEPS)\n"
    )
    assert "NEWTON_STEPS = 3" in made(used, ADAMW)


def test_every_knob_is_used_after_any_pile_of_rewrites() -> None:
    for seed in range(3):
        text = TEXT
        for move in random.Random(seed).sample(REWRITES, len(REWRITES)):
            text = rewrite(text, move) or text
        assert undefined_names(text) == set()
        names = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
        used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
        assert {knob.name for knob in parse_knobs(text)} <= used


def test_a_rewrite_names_nothing_that_a_person_has_renamed() -> None:
    """It would compile, pass the checks and fail in training."""
    renamed = TEXT.replace("MOMENTUM", "BETA")
    assert rewrite(renamed, ADAMW) is None
    assert rewrite(renamed, EMBEDDING_NORM) is not None
    other = TEXT.replace("import torch.nn.functional as F", "import torch.nn.functional as fn").replace("F.", "fn.")
    assert rewrite(other, EMBEDDING_NORM) is None
    assert rewrite(other, CLIPPING) is not None


@pytest.mark.parametrize("end", ["\r\n", "\r"], ids=["CRLF", "a lone CR"])
def test_what_is_deleted_is_the_same_whatever_ends_the_lines(end: str) -> None:
    old = TEXT if end == "\r" else TEXT.replace("\n", end)
    old = old.replace("import math\n", "import math  # a\r# b\n") if end == "\r" else old
    text = made(old, ADAMW)
    assert "class Muon" not in text and "def orthogonal" not in text
    plain = text.replace("\r\n", "\n").replace("  # a\r# b", "")
    assert plain == made(TEXT, ADAMW)


def test_a_window_hides_what_lies_farther_back(load: Load) -> None:
    module = load(set_knobs(made(TEXT, WINDOWS), {**SMALL, "WINDOW": 16}))
    model = module.build_model(asdict(module.choose_config(VOCABULARY)))
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 40, 16).unbind(0)
    late = k.clone()
    late[:, :, :10] += 1
    short = [module.ops.attend(q, keys, v, 16) for keys in (k, late)]
    assert torch.allclose(short[0][:, :, 25:], short[1][:, :, 25:], atol=1e-6)
    assert not torch.allclose(short[0][:, :, 20], short[1][:, :, 20], atol=1e-4)
    wide = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(module.ops.attend(q, k, v, 64), wide, atol=1e-5)
    assert model.layers[0].self_attn.window == 16


# --- which one now --------------------------------------------------------------------------


def context_of(text: str, history: list[PastExperiment] | None = None) -> ResearchContext:
    return ResearchContext("", text, revision_digest(text), tuple(history or ()), {}, {}, 0, 0.01)


def past(text: str, hypothesis: str, status: Status, parent: str, score: float | None = 1.0) -> PastExperiment:
    knobs = {knob.name: knob.value for knob in parse_knobs(text)}
    return PastExperiment(
        1, revision_digest(text), revision_digest(parent), "search", hypothesis, status, score, knobs,
        template_digest(text),
    )  # fmt: skip


def played(statuses: dict[str, Status], rounds: int) -> list[str]:
    """Titles in the order in which they are tried, when those named end so and all others are not better."""
    head, history, titles = TEXT, list[PastExperiment](), []
    for _ in range(rounds):
        proposal = next_move(Space(context_of(head, history)), PLAYBOOK)
        if proposal is None:
            break
        title = proposal.hypothesis.partition(":")[0]
        titles.append(title)
        status = statuses.get(title, Status.REVERTED)
        history.append(past(proposal.train_py, proposal.hypothesis, status, head))
        head = proposal.train_py if status is Status.KEPT else head
    return titles


def test_turns_and_rewrites_come_mixed_in_the_order_of_the_playbook() -> None:
    titles = played({}, 60)
    names = [move.title for move in PLAYBOOK]
    assert titles == [name for name in names if name in titles]
    # The head of the shipped code is tied already, it has no DEPTH and no DROPOUT, and its learning rates can halve.
    assert set(names) - set(titles) == {"use fewer layers", "use more layers", "drop the dropout", "tie the head"}
    assert titles[:4] == ["halve the model", "double the model", "halve the batch", "double the learning rates"]


def test_what_failed_is_tried_again_last_and_only_where_the_code_has_changed() -> None:
    titles = played({"normalise the embedding": Status.KEPT}, 80)
    assert titles.count("square the ReLU") == 2
    assert titles.index("halve the model", 1) > titles.index("keep the logits' sum near one")
    assert max(titles.count(title) for title in titles) == 2
    assert titles.count("normalise the embedding") == 1


@pytest.mark.parametrize("status", [Status.DISTURBED, Status.SKIPPED, Status.INTERRUPTED])
def test_a_rewrite_without_a_verdict_is_no_setback_and_not_made_again(status: Status) -> None:
    tried = past(made(TEXT, EMBEDDING_NORM), "an edit by somebody else", status, TEXT, None)
    assert next_move(Space(context_of(TEXT, [tried])), [EMBEDDING_NORM]) is None
    assert next_move(Space(context_of(TEXT)), [EMBEDDING_NORM]) is not None


def test_an_edited_head_is_left_alone_where_a_move_no_longer_fits() -> None:
    edited = TEXT.replace("        cos, sin = rotation(ids.shape[1]", "        cosine, sin = rotation(ids.shape[1]")
    assert rewrite(edited, EMBEDDING_NORM) is None
    assert rewrite(edited, LOGIT_CAP) is not None
    twice = TEXT.replace("    share = schedule(batch.progress)\n", "    share = schedule(batch.progress)\n" * 2)
    assert rewrite(twice, CLIPPING) is None


def test_a_move_may_not_break_the_rules_for_a_train_py() -> None:
    long = TEXT + "\n".join(f"A{number} = {number}" for number in range(700))
    assert all(rewrite(long, move) is None for move in REWRITES)


def test_the_searcher_keeps_its_history_when_a_rewrite_is_kept() -> None:
    head, history, proposer = TEXT, list[PastExperiment](), make_proposer("search")
    for number in range(30):
        proposal = proposer.propose(context_of(head, history))
        assert proposal is not None
        is_kept = proposal.hypothesis.startswith("train the matrices with AdamW")
        status = Status.KEPT if is_kept else Status.REVERTED
        history.append(past(proposal.train_py, proposal.hypothesis, status, head, 1.0 - 0.001 * number))
        head = proposal.train_py if is_kept else head
    assert "ADAM_SHARE" in head
    space = Space(context_of(head, history))
    turned = [entry for entry in history if "train the matrices with AdamW" not in entry.hypothesis]
    assert len(space.trials) == len(history)
    assert all(trial.assignment["ADAM_SHARE"] == 0.15 for trial in space.trials[: len(turned) // 2])
    suggestions: list[Any] = [entry.hypothesis for entry in history if entry.hypothesis.startswith("follow the")]
    assert suggestions
