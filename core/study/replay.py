"""Searches on surrogates by the hundred: every proposer on every corpus with every search seed, on several cores.

Called by `slm-ar study --mode surrogate`. Promises: the traces are a function of the tables, the proposers and the
seeds, whatever the number of processes; every search of a corpus has the same seconds.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..agent.edits import parse_knobs
from ..agent.proposers import make_proposer
from ..contracts import BITS_PER_BYTE, Proposer, Status
from ..errors import DataError, SlmArError
from .loop import Trace, search
from .space import Space
from .store import TABLE, read_store
from .surrogate import Surrogate
from .timing import FIELD, allowed_seconds, rates_of, trainings_of
from .world import SurrogateWorld

Make = Callable[[str], Proposer]
NEEDED = ("configuration", "repeat", "knobs", "status", "score", "seconds")
"""What a row of a table must hold."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A corpus to search on, and for how many seconds."""

    corpus: str
    world: SurrogateWorld
    seconds: float
    score: str
    """What the scores are, in words."""


def open_replay(corpus: str, path: Path, runs: int) -> Replay:
    """Fit the table at `path`. Raises UsageError where it cannot carry a study."""
    header, content = read_store(path, TABLE)
    try:
        train_py, identity, facts = str(header["train_py"]), str(header["identity"]), header["facts"]
        knobs, budget_seconds = parse_knobs(train_py), facts["recipe"]["budget"]["seconds"]
    except (KeyError, TypeError):
        raise DataError(f"{path}, line 1: does not say what was recorded", "restore the file") from None
    space = Space(knobs)
    for number, row in enumerate(content, 2):
        if FIELD not in row and (wrong := _wrong_with(row, space)):
            raise DataError(f"{path}, line {number}: {wrong}", "restore the file")
    with _one_thread():
        surrogate = Surrogate(knobs, trainings_of(content))
    world = SurrogateWorld(
        surrogate, train_py, header, identity, *rates_of(content, allowed_seconds(runs, budget_seconds))
    )
    return Replay(corpus, world, runs * surrogate.facts.seconds_of_start, header.get("score", BITS_PER_BYTE))


def _wrong_with(row: Mapping[str, Any], space: Space) -> str:
    """Why no model can be fitted to a row, which a hand or a failing disk has changed; empty when all is well."""
    if missing := [name for name in NEEDED if name not in row]:
        return f"lacks {', '.join(missing)}"
    knobs, status, score, seconds = (row[name] for name in ("knobs", "status", "score", "seconds"))
    if not isinstance(knobs, dict) or knobs.keys() != {knob.name for knob in space.knobs}:
        return "has other knobs than the recorded train.py"
    try:
        are_allowed = all(-1e-9 <= place <= 1 + 1e-9 for place in space.point(knobs))
    except (ValueError, TypeError, OverflowError):
        are_allowed = False
    if not are_allowed:
        return "has a value that its knob does not allow"
    if not all(isinstance(row[name], int) for name in ("configuration", "repeat")):
        return "configuration and repeat must be whole numbers"
    if status is not None and status not in list(Status):
        return f"there is no status {status!r}"
    if status is None and not _is_number(score):
        return "score must be a number where no status says that there is none"
    return "" if _is_number(seconds) and seconds > 0 else "seconds must be a number above zero"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


Task = tuple[str, str, int]
"""Corpus, proposer, search seed."""


def replay_all(
    replays: Sequence[Replay],
    proposers: Sequence[str],
    seeds: Iterable[int],
    jobs: int,
    tell: Callable[[int, int], None] = lambda done, total: None,
    make: Make | None = None,
) -> list[Trace]:
    """All searches, in the order corpus, proposer, seed. `make` finds proposers; with one of your own, jobs is 1."""
    seeds = tuple(seeds)
    known = {replay.corpus: replay for replay in replays}
    tasks: list[Task] = [(corpus, name, seed) for corpus in known for name in proposers for seed in seeds]
    traces = []
    with _workers(known, jobs, make) as results:
        for trace in results(tasks):
            traces.append(trace)
            tell(len(traces), len(tasks))
    return traces


@contextmanager
def _workers(
    known: Mapping[str, Replay], jobs: int, make: Make | None
) -> Iterator[Callable[[list[Task]], Iterable[Trace]]]:
    if jobs == 1 or make is not None:
        with _one_thread():
            yield lambda tasks: (_played(known, task, make or make_proposer) for task in tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _begin, (dict(known),)) as pool:
        yield lambda tasks: map(_given, pool.imap(_play, tasks, chunksize=max(1, min(8, len(tasks) // (4 * jobs)))))


_KNOWN: dict[str, Replay] = {}
"""In a helper process: what it searches on."""


def _begin(known: dict[str, Replay]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its helpers without a word
    _one_thread()
    _KNOWN.update(known)


def _one_thread() -> Any:
    """Several helpers share the cores, and with another number of threads a model's last digits can differ.

    From the call on; as a context manager, until its end.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    return threadpool_limits(1)


def _play(task: Task) -> Trace | tuple[type[SlmArError], str, str]:
    try:
        return _played(_KNOWN, task, make_proposer)
    except SlmArError as error:  # an exception with two arguments does not survive the way between processes
        return type(error), error.message, error.hint


def _given(answer: Trace | tuple[type[SlmArError], str, str]) -> Trace:
    if isinstance(answer, Trace):
        return answer
    kind, message, hint = answer
    raise kind(message, hint)


def _played(known: Mapping[str, Replay], task: Task, make: Make) -> Trace:
    corpus, name, seed = task
    replay = known[corpus]
    trace = search(corpus, name, make(name), replay.world, seed, replay.seconds)
    values = {revision: replay.world.value(text) for revision, text in trace.texts.items()}
    return replace(trace, values=values, texts={})
