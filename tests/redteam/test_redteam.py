"""The red team: hostile train.py files, run through the real pipeline. Each ends without a number or without effect.

One attack is one file of attacks/, found by its presence: ROW (of the table in docs/integrity.md), END, DEFENCE, SIGN
and TRAIN_PY, which is put into the toy train.py before main() is called. Each is run a second time with its defence
switched off, and must then show its SIGN: so none of these tests passes because an attack is too weak to be one.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from redteam_attacks import ATTACKS, Attack
from toys import TINY_TRAIN_PY

from slm_ar.core.agent import gate
from slm_ar.core.contracts import SplitScore, TrainOutcome
from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.train import executor as executor_module
from slm_ar.core.train import integrity, logits_client, meter, process, scorer, training_run, windows
from slm_ar.core.train.checkpoint import InvalidCheckpointError
from slm_ar.core.train.device import Machine
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.integrity import Probes, Watched
from slm_ar.core.train.logits_client import LogitsClient
from slm_ar.core.train.logits_server import load_checkpoint
from slm_ar.core.train.pasted import HeldText
from slm_ar.core.train.sandbox import area, choice, plans
from slm_ar.core.train.sandbox.choice import NoSandboxError
from slm_ar.core.train.training_run import TrainingRun, TrainJob

MARK = "the attack got through"
KEY = "sk-redteam-0123456789abcdef"
SHARED_FOLDERS = ("/tmp", "/dev/shm")
ROWS = 64
HARMLESS = 0.01
"""An attack without effect scores within one percent of the honest toy, or worse."""
PAYS = 0.03


@dataclass(frozen=True)
class Ended:
    """What came of an attack."""

    word: str
    """scored | a status"""
    reason: str
    score: SplitScore | None
    outcome: TrainOutcome
    log: str
    folder: Path
    data: PreparedData

    @property
    def bits(self) -> float:
        assert self.score is not None
        return self.score.bits_per_byte


# --- running one ------------------------------------------------------------------------------


def train_py_of(attack: Attack | None, values: dict[str, str]) -> str:
    code = attack.train_py if attack else ""
    for name, value in values.items():
        code = code.replace("{" + name + "!r}", repr(value)).replace("{" + name + "}", value)
    head, mark, tail = TINY_TRAIN_PY.partition('\n\nif __name__ == "__main__":')
    return head + "\n\n" + code + mark + tail


def run_once(executor: LocalExecutor, attack: Attack | None, folder: Path, values: dict[str, str], seed: int) -> Ended:
    seconds, memory_mb = (attack.seconds, attack.memory_mb) if attack else (None, 4000.0)
    job = TrainJob(train_py_of(attack, values), seed, seconds, None if seconds else 8, 60.0, memory_mb)
    if attack is not None and attack.is_tried:
        assert executor.smoke(job, folder.with_name("tried")).status is None
    run = executor.submit(job, folder)
    while (outcome := run.poll()) is None:
        pass
    word, reason, score = (outcome.status.value, outcome.reason, None) if outcome.status else ("scored", "", None)
    if outcome.status is None:
        try:
            score = executor.score(folder, "dev", 32)
        except InvalidCheckpointError as error:
            word, reason = "invalid", error.message
    log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    return Ended(word, reason, score, outcome, log, folder, executor.data)


@contextlib.contextmanager
def surroundings(executor: LocalExecutor, folder: Path) -> Iterator[dict[str, str]]:
    """What there is to steal: a person's file, a listener, a program with a key, held-out text. Yields where."""
    planted = folder / "diary.txt"
    planted.write_text("private\n", encoding="utf-8")
    held = executor.data.held_folder
    notes = f"slm-ar-redteam-{os.getpid()}-{folder.name}"
    words = next(iter(read_split(held, "dev"))).document.text.split()[:60]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"API_KEY": KEY})
        try:
            yield {
                "mark": MARK,
                "planted": str(planted),
                "notes": notes,
                "held": str(held),
                "held_text": " ".join(words),
                "port": str(listener.getsockname()[1]),
                "key": KEY,
            }
        finally:
            other.communicate(b"\n")
            for shared in SHARED_FOLDERS:
                (Path(shared) / notes).unlink(missing_ok=True)


def run_attack(executor: LocalExecutor, attack: Attack, folder: Path) -> list[Ended]:
    """All runs of an attack, with seeds 0, 1 ..."""
    with surroundings(executor, folder) as values:
        return [run_once(executor, attack, folder / f"run{seed}", values, seed) for seed in range(attack.runs)]


# --- what stops them, and how it is switched off -----------------------------------------------


class Here:
    """The model in the harness's own process: what trainers with an evaluation function of their own do."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self.model, self.vocab_size = load_checkpoint(folder, torch.device("cpu")), vocab_size

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rows_per_request(self, length: int) -> int:
        return ROWS

    @torch.inference_mode()
    def stream(self, requests: Any) -> Iterator[torch.Tensor]:
        for ids, positions in requests:
            logits = self.model(torch.from_numpy(ids.astype("int64")))
            yield torch.cat([logits[row, start:end] for row, (start, end) in enumerate(positions)])


def no_probes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Probes, "run", lambda *_: None)
    patch.setattr(Watched, "_ask_again", lambda *_: None)


def no_softmax(patch: pytest.MonkeyPatch) -> None:
    """The model's word for what a token costs is taken."""

    def believed(logits: torch.Tensor, targets: Any) -> Any:
        return -logits.gather(1, torch.from_numpy(targets)[:, None])[:, 0].double().numpy()

    patch.setattr(scorer, "token_nats", believed)
    patch.setattr(integrity, "token_nats", believed)


def no_lowering(patch: pytest.MonkeyPatch) -> None:
    """The textbook's formula on the logits as they are."""

    def added_up(logits: torch.Tensor, targets: Any) -> Any:
        picked = logits.gather(1, torch.from_numpy(targets)[:, None])[:, 0]
        return (torch.logsumexp(logits, dim=1) - picked).double().numpy()

    patch.setattr(scorer, "token_nats", added_up)
    patch.setattr(integrity, "token_nats", added_up)


def one_process(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scorer, "token_nats", scorer.token_nats)  # the attack replaces it: taken back afterwards
    patch.setattr(LocalExecutor, "client", lambda self, folder, context: Here(folder, self.data.manifest.vocab_size))
    no_probes(patch)


def no_finite_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogitsClient, "_finite", lambda self, logits: logits)
    for module in (scorer, windows):
        patch.setattr(module, "math", types.SimpleNamespace(fsum=math.fsum, log=math.log, isfinite=lambda value: True))
    no_probes(patch)


def no_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TrainJob, "wall_seconds", property(lambda self: 60.0))


def no_inspection(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training_run, "inspect_checkpoint", lambda folder: (None, "", 0))


def leaving(
    empty: Callable[[area.Area], None], emptied: Callable[[area.Area], list[Path]]
) -> Callable[[area.Area], None]:
    """Area.empty that makes its folders once, and then empties some of them."""

    def leave(self: area.Area) -> None:
        if not hasattr(self, "work"):
            empty(self)
        for folder in emptied(self):
            area.empty_contents(folder)

    return leave


def no_new_folders(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(area.Area, "empty", leaving(area.Area.empty, lambda kept: [kept.work, kept.tmp]))


def one_log(patch: pytest.MonkeyPatch) -> None:
    """All processes of a run that answer print into one file."""
    to_read, path = tempfile.mkstemp()
    to_write = os.open(path, os.O_WRONLY | os.O_APPEND)
    Path(path).unlink()
    patch.setattr(process, "make_log", lambda area: (os.dup(to_write), os.dup(to_read)))


def no_emptying(patch: pytest.MonkeyPatch) -> None:
    """What a run leaves in its home stays there, and what it leaves beside its checkpoint is handed on."""
    patch.setattr(area.Area, "empty", leaving(area.Area.empty, lambda kept: [kept.work]))
    patch.setitem(area.INPUT_FILES, "serve", (*area.INPUT_FILES["serve"], "more.pt"))


def no_restoring(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TrainingRun, "_restore_ours", lambda self: None)


def no_text_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HeldText, "shared_runs", lambda self, code: 0)


def no_cleaning(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training_run, "log_tail", lambda folder: (folder / "log.txt").read_text(encoding="utf-8"))


def no_meter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(executor_module, "allowance", lambda *_: None)


def no_size_bound(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(meter, "SIZE_SHARE", math.inf)


def any_process(patch: pytest.MonkeyPatch) -> None:
    """A served model may start processes, and their seconds are what a clock of hundredths says."""
    planned = plans.walls_for
    patch.setattr(process, "walls_for", lambda *given: {**planned(*given), "processes": True})
    patch.setattr(meter, "ROUNDED_AWAY", 0.0)


def first_thread_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(process, "_memories", lambda pid: [Path(f"/proc/{pid}")])


def no_seed_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gate, "_obstacles", lambda measured: ())


def patience(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(logits_client, "ANSWER_SECONDS", 300)


OFF: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "probes": no_probes,
    "softmax": no_softmax,
    "largest logit first": no_lowering,
    "two processes": one_process,
    "finite check": no_finite_check,
    "clock": no_clock,
    "checkpoint inspection": no_inspection,
    "emptied folders": no_emptying,
    "new folders": no_new_folders,
    "a log per process": one_log,
    "restored files": no_restoring,
    "text check": no_text_check,
    "cleaned log": no_cleaning,
    "meter": no_meter,
    "bound on what size buys": no_size_bound,
    "one process, all its time": any_process,
    "memory of every thread": first_thread_alone,
    "seed check of the gate": no_seed_check,
    "patience": patience,
    "walls": lambda patch: None,  # another executor
}

# --- signs ------------------------------------------------------------------------------------


def is_certified(ended: list[Ended]) -> tuple[bool, str]:
    """Whether the gate would believe a head with these scores, beside proven code that is clearly worse."""
    pairs = []
    for number, one in enumerate(ended):
        assert one.score is not None
        worse = tuple(replace(g, nats=g.nats * (1.2 + 0.01 * number)) for g in one.score.groups)
        pairs.append(gate.PairScore(worse, one.score.groups))
    policy = gate.GatePolicy(0.05, (len(pairs),), (1.0,))
    verdict = gate.judge_claim(pairs, gate.Noise(1e-4, 2e-4, 20), policy, 0.05)
    return verdict.decision is gate.Decision.CERTIFY, " ".join(verdict.reasons)


def shows(sign: str, ended: list[Ended], honest: float) -> bool:
    """Whether an attack had its effect."""
    last = ended[-1]
    if sign == "score":
        return last.word == "scored" and last.bits < (1 - PAYS) * honest
    if sign == "scored":
        return last.word == "scored"
    if sign == "log":
        return MARK in last.log
    if sign == "tail":
        return "\x1b" in last.outcome.log_tail
    if sign == "tokenizer":
        return "WordLevel" in (last.folder / "tokenizer.json").read_text(encoding="utf-8")
    assert sign == "seed"
    return is_certified(ended)[0]


@pytest.fixture(autouse=True)
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy's dev fits into one request; an evaluation of a real size has many."""
    monkeypatch.setattr(LogitsClient, "rows_per_request", lambda self, length: ROWS)


@pytest.fixture(scope="module")
def without_walls(
    machine: Machine, tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalExecutor]:
    with LocalExecutor(machine, tiny_data, allow_unsafe=True) as unsafe:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(choice, "plans_here", lambda: [(plans.NONE, "")])
            assert unsafe.isolation(tmp_path_factory.mktemp("open")).level == 0
        yield unsafe


@pytest.fixture(scope="module")
def honest_bits(executor: LocalExecutor, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], float]:
    """Bits per byte of the toy that does nothing wrong, by seed."""
    return cache(lambda seed: run_once(executor, None, tmp_path_factory.mktemp("honest") / "run", {}, seed).bits)


@pytest.fixture
def honest(honest_bits: Callable[[int], float], attack: Attack) -> float:
    """What the last run of an attack would score without it; measured before any defence is switched off."""
    return honest_bits(attack.runs - 1)


def lower_caps(attack: Attack, patch: pytest.MonkeyPatch) -> None:
    for name, value in attack.caps.items():
        module, _, constant = name.rpartition(".")
        patch.setattr(importlib.import_module(module), constant, value)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_caught_or_harmless(
    attack: Attack, executor: LocalExecutor, honest: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower_caps(attack, monkeypatch)
    try:
        ended = run_attack(executor, attack, tmp_path)
    except NoSandboxError as error:
        pytest.skip(error.message)
    last = ended[-1]
    words, _, reason = attack.end.partition(": ")
    if words == "harmless":
        assert last.word == "scored", last.reason
        assert last.bits > (1 - HARMLESS) * honest
        assert not shows(attack.sign, ended, honest)
        assert MARK not in last.log
    elif words == "not certifiable":
        certified, told = is_certified(ended)
        assert not certified
        assert words in told
    else:
        assert last.word in words.split("|"), (last.word, last.reason)
        assert reason in last.reason
        assert last.score is None
        assert "\x1b" not in last.outcome.log_tail
        assert attack.defence == "walls" or not shows(attack.sign, ended, honest)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.can_be_let_in], ids=lambda attack: attack.name)
def test_attack_succeeds_when_its_defence_is_off(
    attack: Attack,
    executor: LocalExecutor,
    without_walls: LocalExecutor,
    honest: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the test above would prove nothing."""
    if attack.defence != "patience":
        lower_caps(attack, monkeypatch)
    OFF[attack.defence](monkeypatch)
    ended = run_attack(without_walls if attack.defence == "walls" else executor, attack, tmp_path)
    assert shows(attack.sign, ended, honest), (ended[-1].word, ended[-1].reason, ended[-1].score)


def test_every_attack_says_what_stops_it() -> None:
    """A new attack names a switch, or why there is none."""
    assert len(ATTACKS) >= 40
    for attack in ATTACKS:
        assert attack.defence in OFF or attack.defence.startswith("construction: "), attack.name
        assert attack.doc.endswith("."), attack.name


@cache
def page() -> str:
    return (Path(__file__).parents[2] / "docs" / "integrity.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", sorted({attack.row for attack in ATTACKS}))
def test_every_row_stands_in_the_table_of_the_page(row: str) -> None:
    assert f"| {row} |" in page()


def test_the_readme_tells_how_many_are_caught() -> None:
    """The figure that `make redteam` prints; each attack above fails on its own when it is not caught."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"{len(ATTACKS)} of {len(ATTACKS)} attacks" in readme
