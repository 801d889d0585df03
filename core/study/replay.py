"""Searches on surrogates by the hundred: every proposer on every corpus with every search seed, on several cores.

Called by `slm-ar study --mode surrogate`. Promises: the traces are a function of the tables, the proposers and the
seeds, whatever the number of processes; every search of a corpus has the same seconds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..agent.edits import parse_knobs
from ..agent.proposers import make_proposer
from ..contracts import Proposer
from ..errors import DataError, SlmArError
from .loop import Trace, search
from .store import TABLE, read_store
from .surrogate import Surrogate, SurrogateWorld
from .timing import allowed_seconds, rates_of, trainings_of

Make = Callable[[str], Proposer]
NEEDED = frozenset({"configuration", "repeat", "knobs", "status", "score", "seconds"})
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
    rows = trainings_of(content)
    knobs = parse_knobs(str(header.get("train_py", "")))
    names = {knob.name for knob in knobs}
    for number, row in enumerate(rows, 2):
        if missing := NEEDED - row.keys():
            raise DataError(f"{path}, line {number}: lacks {', '.join(sorted(missing))}", "restore the file")
        if row["knobs"].keys() != names:
            raise DataError(f"{path}, line {number}: has other knobs than the recorded train.py", "restore the file")
    surrogate = Surrogate(knobs, rows)
    allowed = allowed_seconds(runs, header["facts"]["recipe"]["budget"]["seconds"])
    world = SurrogateWorld(surrogate, header["train_py"], header, header["identity"], *rates_of(content, allowed))
    return Replay(corpus, world, runs * surrogate.facts.seconds_of_start, header.get("score", "bits per byte"))


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
        yield lambda tasks: (_played(known, task, make or make_proposer) for task in tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _begin, (dict(known),)) as pool:
        yield lambda tasks: map(_given, pool.imap(_play, tasks, chunksize=max(1, min(8, len(tasks) // (4 * jobs)))))


_KNOWN: dict[str, Replay] = {}
"""In a helper process: what it searches on."""


def _begin(known: dict[str, Replay]) -> None:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threadpool_limits(1)  # several helpers share the cores
    _KNOWN.update(known)


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
