"""Tokens per processor second of the batches that train.py gets: B4, a part of `make bench`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from slm_ar.core.train import runtime
from slm_ar.core.train.loader import Align

from .common import Opened, Quiet, Run, Settings, interval_of_ratio, median_of, ratio_words, significant
from .harness import connected, write_shards

LABEL = "B4"
TITLE = "Data loader"
WHAT = (
    "`runtime.batches` of core/train/runtime.py over random ids in a memory-mapped file, in documents of 200 tokens; "
    "one process, processor time. Beside it rows read and stacked one by one, as nanoGPT does it. Target: 50 million "
    "tokens per second of one core."
)
WAYS: dict[str, tuple[int, int, Align]] = {
    f"{rows} x {context} {align}": (rows, context, align)
    for rows, context in ((8, 256), (16, 2048))
    for align in get_args(Align)
}
VOCAB_SIZE = 1024
WARM_BATCHES, BATCHES_AT_ONCE = 20, 50


def name(settings: Settings) -> str:
    return "loader"


def asked(settings: Settings) -> dict[str, Any]:
    return {"tokens": 300_000 if settings.is_quick else 20_000_000, "cpu_seconds": 0.02 if settings.is_quick else 1.0}


def keys(settings: Settings) -> list[str]:
    return [f"{way} {number}" for number in range(settings.seeds) for way in WAYS]


def seconds(settings: Settings) -> float:
    return 3 + 2.2 * len(keys(settings)) * float(asked(settings)["cpu_seconds"])


@contextmanager
def opened(settings: Settings, folder: Path) -> Iterator[Opened]:
    size = asked(settings)
    folder.mkdir()
    shards = folder / "tokens.bin"
    write_shards(shards, size["tokens"], VOCAB_SIZE)

    def measure(key: str) -> Run:
        rows, context, align = WAYS[key.rpartition(" ")[0]]
        quiet = Quiet()
        facts = {"seed": int(key.rpartition(" ")[2]), "vocab_size": VOCAB_SIZE, "token_count": size["tokens"]}
        with connected(folder / "run", shards, facts):
            run = runtime.connect()
            batches = run.batches(rows * context, context, align=align)
            ours = rate(lambda: next(batches).inputs.numel(), size["cpu_seconds"])
            batches.close()  # type: ignore[attr-defined]
            run._control.close()
        stacked = one_by_one(np.memmap(shards, np.uint16, "r"), rows, context)
        theirs = rate(lambda: next(stacked)[0].numel(), size["cpu_seconds"])
        return {"tokens_per_cpu_second": ours, "one_by_one": theirs, "void": quiet.verdict()}

    yield Opened({"device": "cpu"}, measure)


def rate(take: Callable[[], int], cpu_seconds: float) -> float:
    """Tokens per processor second of all threads; the first batches pay what is paid once."""
    for _ in range(WARM_BATCHES):
        take()
    tokens, started = 0, time.process_time()
    while (spent := time.process_time() - started) < cpu_seconds:
        tokens += sum(take() for _ in range(BATCHES_AT_ONCE))
    return significant(tokens / spent)


def one_by_one(tokens: np.ndarray[Any, Any], rows: int, context: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows at random places, each read, converted and stacked by itself."""
    random = np.random.default_rng(0)
    for _ in itertools.count():
        starts = random.integers(len(tokens) - context - 1, size=rows)
        inputs = [torch.from_numpy(tokens[start : start + context].astype(np.int64)) for start in starts]
        targets = [torch.from_numpy(tokens[start + 1 : start + 1 + context].astype(np.int64)) for start in starts]
        yield torch.stack(inputs), torch.stack(targets)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    found = {}
    for way in WAYS:
        own = [run for run in runs if run["key"].rpartition(" ")[0] == way]
        found[way] = {
            "tokens_per_cpu_second": median_of(own, "tokens_per_cpu_second"),
            "one_by_one": median_of(own, "one_by_one"),
            "ratio": interval_of_ratio(
                [run["tokens_per_cpu_second"] for run in own], [run["one_by_one"] for run in own]
            ),
        }
    return found


def lines(record: Mapping[str, Any]) -> list[str]:
    shown = ["| rows x context, aligned to | M tokens per CPU-s | row by row | times faster (95 % interval) |"]
    shown.append("| --- | --- | --- | --- |")
    for way, item in record["summary"].items():
        if item["ratio"]:
            rates = f"{item['tokens_per_cpu_second'] / 1e6:.1f} | {item['one_by_one'] / 1e6:.1f}"
            shown.append(f"| {way} | {rates} | {ratio_words(item['ratio'])} |")
    return shown
