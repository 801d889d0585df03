"""Speed and memory of prepare: from files to shards, and the encoder beside the `tokenizers` library: B3.

    python -m benchmarks.prepare SOURCE [--adapter transit] [--recipe RECIPE.toml]     one source
    python -m benchmarks.prepare --scale 1 10 [--mb 20] [--kind stories|log]           made-up text, 1x and 10x

A part of `make bench` as well. Every preparation runs in a process of its own, in a new folder, and its memory is that
of the process and all its children at their highest. The encoder and the library read the same train text in one
process with one thread, and are compared by processor time. Output is one JSON object with the machine and its load.
Seconds are only worth quoting from an idle machine; processor seconds suffer less from other programs.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from .common import Opened, Quiet, Run, Settings, facts, load, median_of, parser, private_in, tell

LABEL = "B3"
TITLE = "Prepare"
WHAT = (
    "From a file of made-up stories to shards, in a fresh process: dedup, splits, tokenizer of 2,048 tokens, encoding, "
    "floors. The encoder beside the `tokenizers` library on the same text, one thread each, by processor time."
)
DEFAULT_RECIPE = """
name = "benchmark"
description = "Speed of prepare"
[data]
adapter = "{adapter}"
dev_kb = 400
hidden_kb = 640
test_kb = 640
[tokenizer]
vocab_size = 2048
[budget]
seconds = 60
"""
ENCODED_BYTES = 32_000_000
CHUNK_BYTES = 1_000_000
"""What prepare encodes at once."""
POLL_SECONDS = 0.05


def main() -> None:
    options = parser(__doc__)
    options.add_argument("source", nargs="?", type=Path)
    options.add_argument("--adapter", default="transit")
    options.add_argument("--recipe", type=Path)
    options.add_argument("--scale", nargs="+", type=int, default=[1, 10])
    options.add_argument("--mb", type=float, default=20.0, help="MB of made-up text at scale 1")
    options.add_argument("--kind", choices=("stories", "log"), default="stories")
    arguments = options.parse_args()
    result = facts()
    with tempfile.TemporaryDirectory(prefix="slm-ar-bench-") as folder, private_in(Path(folder)):
        root = Path(folder)
        if arguments.source is not None:
            text = DEFAULT_RECIPE.format(adapter=arguments.adapter)
            text = arguments.recipe.read_text(encoding="utf-8") if arguments.recipe else text
            result["source"] = measured(text, arguments.source.resolve(), root / "source")
        else:
            result["kind"] = arguments.kind
            for scale in arguments.scale:
                result[f"{scale}x"] = made_up(arguments.kind, int(scale * arguments.mb * 1e6), root / f"work-{scale}")
    tell(result, arguments.json)


def made_up(kind: str, size: int, root: Path) -> dict[str, Any]:
    """One preparation of `size` bytes of made-up text."""
    file = root.with_suffix(".txt")
    write_text(file, kind, size)
    text = DEFAULT_RECIPE.format(adapter="text")
    if kind == "log":
        text = text.replace("[tokenizer]", 'split = "order"\n[tokenizer]')
    found = measured(text, file, root)
    file.unlink()
    return found


# --- as a part of `make bench` --------------------------------------------------------------------


def name(settings: Settings) -> str:
    return "prepare"


def asked(settings: Settings) -> dict[str, Any]:
    return {"mb": 1.0 if settings.is_quick else 24.0}


def keys(settings: Settings) -> list[str]:
    return [str(number) for number in range(min(3, settings.seeds))]


def seconds(settings: Settings) -> float:
    return len(keys(settings)) * (5 + 3.5 * float(asked(settings)["mb"]))


@contextmanager
def opened(settings: Settings, folder: Path) -> Iterator[Opened]:
    folder.mkdir()

    def measure(key: str) -> Run:
        quiet = Quiet()
        found = made_up("stories", int(asked(settings)["mb"] * 1e6), folder / f"prepare-{key}")
        rate = round(found["prepared_bytes"] / 1e6 / found["cpu_seconds"], 2)
        return {**found, "prepared_mb_per_cpu_second": rate, "void": quiet.verdict()}

    yield Opened({}, measure)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    names = ("prepared_mb_per_second", "prepared_mb_per_cpu_second", "peak_mb")
    encoders = [run["encode"] for run in runs]
    words = ("ours, MB/s", "tokenizers, MB/s", "tokenizers one by one, MB/s", "times_faster")
    return {name: median_of(runs, name) for name in names} | {name: median_of(encoders, name) for name in words}


def lines(record: Mapping[str, Any]) -> list[str]:
    found = record["summary"]
    if found["prepared_mb_per_second"] is None:
        return []
    library = max(found["tokenizers, MB/s"], found["tokenizers one by one, MB/s"])
    return [
        f"{record['asked']['mb']:g} MB of text.",
        "",
        "| prepared, MB/s | MB per CPU-s | highest memory | encoder, MB per CPU-s | `tokenizers` | times faster |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| {found['prepared_mb_per_second']:.2f} | {found['prepared_mb_per_cpu_second']:.2f} | "
        f"{found['peak_mb']:,.0f} MB | {found['ours, MB/s']:.1f} | {library:.1f} | {found['times_faster']:.2f} |",
    ]


# --- one preparation --------------------------------------------------------------------------------


def measured(recipe: str, source: Path, root: Path) -> dict[str, Any]:
    """One preparation in a fresh process: seconds, MB/s, highest memory, seconds of every step, encoding speed."""
    before = load()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=_prepare, args=(recipe, source, root, sender))
    peak = _Peak()
    child.start()
    sender.close()
    assert child.pid is not None
    with peak.watching(child.pid):
        try:
            found: dict[str, Any] = receiver.recv()
        except EOFError:
            raise SystemExit("the preparation failed") from None
        child.join()
    found |= {"peak_mb": round(peak.bytes / 1e6), "load_before": before}
    return found


def _prepare(recipe_text: str, source: Path, root: Path, sender: Connection) -> None:
    from slm_ar.core.prepare.pipeline import prepare
    from slm_ar.core.recipe import parse_recipe
    from slm_ar.core.registry import load_adapter

    recipe = parse_recipe(recipe_text, "the benchmark's recipe")
    steps: list[tuple[str, float]] = []
    started = time.monotonic()

    def note(line: str) -> None:
        steps.append((line.partition(":")[0], time.monotonic()))
        print(f"{time.monotonic() - started:7.1f} s  {line}", file=sys.stderr)

    data = prepare(recipe, load_adapter(recipe.data.adapter), source, root / ".slm" / "data", note)
    ended = time.monotonic()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = sum(item.ru_utime + item.ru_stime for item in used)
    seconds: dict[str, float] = {}
    for (line, begun), (_, until) in zip(steps, [*steps[1:], ("", ended)], strict=True):
        seconds[line] = round(seconds.get(line, 0) + until - begun, 2)
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    read = sum(path.stat().st_size for path in files)
    own = psutil.Process().memory_info().rss
    prepared = sum(size.byte_count for size in data.manifest.splits.values())
    sender.send(
        {
            "source_bytes": read,
            "prepared_bytes": prepared,
            "documents": sum(size.documents for size in data.manifest.splits.values()),
            "seconds": round(ended - started, 2),
            "cpu_seconds": round(cpu_seconds, 2),
            "prepared_mb_per_second": round(prepared / 1e6 / (ended - started), 2),
            "step_seconds": seconds,
            "rss_at_end_mb": round(own / 1e6),
            "overlap": {name: item.near_percent for name, item in data.manifest.overlap.items()},
            "encode": encoding_speed(data.folder),
        }
    )


def encoding_speed(folder: Path) -> dict[str, Any]:
    """MB of train text per second, one process and one thread each: ours from an empty cache, and the library."""
    import numpy as np

    from slm_ar.core.prepare.encoder import encode_flat
    from slm_ar.core.prepare.shards import OFFSETS_FILE, TOKENS_FILE
    from slm_ar.core.prepare.tokenizer import load_tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tokens = np.memmap(folder / TOKENS_FILE, manifest["token_dtype"], "r")
    offsets = np.fromfile(folder / OFFSETS_FILE, "<i8")
    texts: list[str] = []
    size = 0
    for start, end in itertools.pairwise(offsets):
        texts.append(tokenizer.decode(tokens[start + 1 : end - 1].tolist(), skip_special_tokens=False))
        size += len(texts[-1].encode())
        if size > ENCODED_BYTES:
            break
    at_once = max(1, len(texts) * CHUNK_BYTES // size)
    chunks = [texts[first : first + at_once] for first in range(0, len(texts), at_once)]
    ways: dict[str, Callable[[list[str]], list[list[int]]]] = {
        "ours": lambda chunk: [ids.tolist() for ids in encode_flat(tokenizer, chunk)],
        "tokenizers": lambda chunk: [item.ids for item in tokenizer.encode_batch_fast(chunk, add_special_tokens=False)],
        "tokenizers one by one": lambda chunk: [tokenizer.encode(text, add_special_tokens=False).ids for text in chunk],
    }
    times: dict[str, float] = {}
    sums: dict[str, list[int]] = {}
    for name, encode in ways.items():
        times[name] = 0.0
        for chunk in chunks:
            begun = time.process_time()
            found = encode(chunk)
            times[name] += time.process_time() - begun
            sums.setdefault(name, []).append(hash(tuple(map(tuple, found))))
    assert sums["ours"] == sums["tokenizers"] == sums["tokenizers one by one"]
    best = min(times["tokenizers"], times["tokenizers one by one"])
    speeds = {f"{name}, MB/s": round(size / 1e6 / seconds, 2) for name, seconds in times.items()}
    return {"bytes": size, "split": manifest["token_split"], **speeds, "times_faster": round(best / times["ours"], 2)}


class _Peak:
    """The highest memory of a process with its children, looked at twenty times a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()

    def watching(self, pid: int) -> _Peak:
        self._thread = threading.Thread(target=self._watch, args=(pid,), daemon=True)
        return self

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self, pid: int) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                process = psutil.Process(pid)
                self.bytes = max(self.bytes, sum(_rss(p) for p in (process, *process.children(recursive=True))))
            except psutil.Error:
                return


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def write_text(path: Path, kind: str, size: int) -> None:
    """Made-up text of `size` bytes: stories of a paragraph, or one log of records; some words occur once only."""
    pick = random.Random(f"{kind} {size}")
    common = ["".join(pick.choices("etaoinshrdlu", k=pick.randrange(2, 9))) for _ in range(4000)]
    places = [" ".join(pick.choices(common, k=3)) for _ in range(3000)]
    weights = [1 / rank for rank in range(1, len(common) + 1)]
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            words = pick.choices(common, weights, k=120)
            words[pick.randrange(120)] = f"{words[0]}{pick.randrange(10**6)}"
            if kind == "stories":
                text = " ".join(words).capitalize() + ".\n\n"
            else:
                clock = f"{pick.randrange(24):02d}:{pick.randrange(60):02d}"
                rows = zip(pick.choices(places, k=30), words[::4], strict=True)
                text = "".join(f"{clock} | {place} | {word} | {pick.randrange(90)}\n" for place, word in rows)
            written += file.write(text)


if __name__ == "__main__":
    main()
