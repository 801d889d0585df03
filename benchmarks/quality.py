"""Bits per byte at an equal budget, beside compressors and peers: B1 and B2, a part of `make bench`."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.prepare.pipeline import TOKENIZER_FILE, PreparedData
from slm_ar.core.prepare.shards import TOKENS_FILE
from slm_ar.core.prepare.tokenizer import BOS, EOS, load_tokenizer

from . import peer
from .common import (
    Opened,
    Run,
    Settings,
    clocked_job,
    executor_for,
    interval_of_ratio,
    many,
    prepared,
    ratio_words,
    significant,
    train,
    workspace_of,
)

LABEL = "B1, B2"
TITLE = "Quality at an equal budget, and floors"
WHAT = (
    "train.py on a text for a number of seconds, scored on dev by the harness; in turn with it the peers, which get "
    "the same train and dev text, seconds and number of threads. Floors are what compressors and n-grams reach on the "
    "same dev, given train. A ratio below 1 is fewer bits than the other. With evaluation.mixture = ngram slm-ar is "
    "judged together with an n-gram, whose weights are fitted on 32 kB of text that peers do not get; the row "
    "without it is the model alone."
)
OURS = "slm-ar"
ALONE = "slm-ar without the n-gram"


def name(settings: Settings) -> str:
    return f"quality-{settings.text_name}"


def asked(settings: Settings) -> dict[str, Any]:
    return {
        "text": settings.text.name if settings.text else "the synthetic city of the demo",
        "text_digest": _digest(settings.text.read_bytes()) if settings.text else None,
        "seconds": settings.seconds,
        "held_kb": settings.held_kb if settings.text else None,
        "changes": dict(settings.changes),
        "constants": dict(settings.constants),
        "peers": {who: _digest(" ".join(command).encode()) for who, command in map(peer.named, settings.peers)},
    }


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def keys(settings: Settings) -> list[str]:
    names = [OURS, *(peer.named(given)[0] for given in settings.peers)]
    return [f"{who} {seed}" for seed in range(settings.seeds) for who in names]


def seconds(settings: Settings) -> float:
    return (60 if settings.text else 30) + len(keys(settings)) * (settings.seconds + 6)


@contextmanager
def opened(settings: Settings, folder: Path) -> Iterator[Opened]:
    workspace = workspace_of(settings, folder)
    data = prepared(workspace, folder)
    machine = workspace.machine()
    files = write_texts(folder, data) if settings.peers else None
    commands = dict(map(peer.named, settings.peers))
    broken: dict[str, str] = {}
    context = workspace.recipe.evaluation.context
    with executor_for(workspace, data, machine) as executor:
        facts = {
            "device": machine.device,
            "threads": machine.threads,
            "precision": machine.precision,
            "sandbox": executor.isolation(folder).words,
            "train_bytes": data.manifest.splits["train"].byte_count,
            "dev_bytes": data.manifest.splits["dev"].byte_count,
            "floors": data.manifest.floors,
        }

        def measure(key: str) -> Run:
            who, _, seed = key.rpartition(" ")
            if who == OURS:
                job = clocked_job(workspace, machine, int(seed), settings.seconds)
                outcome = train(executor, job, folder / "run")
                score = executor.score(folder / "run", "dev", context)
                run: Run = {"bpb": score.judged, "bpb_alone": score.bits_per_byte, "void": outcome.disturbance}
                shown = ("steps", "tokens", "parameters", "train_seconds", "peak_memory_mb")
                return run | {name: getattr(outcome, name) for name in shown}
            if who in broken:  # what failed for one seed is not asked again in this start
                return {"failure": broken[who], "void": ""}
            assert files is not None
            threads = {"OMP_NUM_THREADS": str(machine.threads)}
            run = peer.run(commands[who], *files, settings.seconds, int(seed), threads)
            if "failure" in run:
                broken[who] = run["failure"]
            return run

        yield Opened(facts, measure)


def write_texts(folder: Path, data: PreparedData) -> tuple[Path, Path]:
    """The train text and the dev text as plain files, for the peers."""
    tokenizer = load_tokenizer(data.folder / TOKENIZER_FILE)
    tokens = np.fromfile(data.folder / TOKENS_FILE, data.manifest.token_dtype)
    ids = tokens[(tokens != BOS) & (tokens != EOS)].tolist()
    train, dev = folder / "train.txt", folder / "dev.txt"
    train.write_text(tokenizer.decode(ids, skip_special_tokens=False), encoding="utf-8")
    dev.write_text("".join(held.document.text for held in read_split(data.held_folder, "dev")), encoding="utf-8")
    return train, dev


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Mean and deviation of each system, and our ratio to each peer, paired by seed; the same of our model without the
    n-gram, as ALONE, where it was judged with one."""
    scores: dict[str, dict[str, float]] = {}
    for run in runs:
        who, _, seed = run["key"].rpartition(" ")
        if "bpb" in run:
            scores.setdefault(who, {})[seed] = run["bpb"]
        if run.get("bpb_alone", run.get("bpb")) != run.get("bpb"):
            scores.setdefault(ALONE, {})[seed] = run["bpb_alone"]
    found: dict[str, Any] = {}
    for who, by_seed in scores.items():
        values = list(by_seed.values())
        found[who] = {
            "seeds": len(values),
            "mean_bpb": round(statistics.fmean(values), 4),
            "sd_bpb": significant(statistics.stdev(values), 2) if len(values) > 1 else None,
        }
        for own, name in ((OURS, "ours_to_it"), (ALONE, "alone_to_it")):
            shared = sorted(scores.get(own, {}).keys() & by_seed.keys())
            if who not in (OURS, ALONE) and shared:
                found[who][name] = interval_of_ratio([scores[own][s] for s in shared], [by_seed[s] for s in shared])
    return found


def lines(record: Mapping[str, Any]) -> list[str]:
    asked, facts, found = record["asked"], record["facts"], record["summary"]
    changed = {**asked["changes"], **asked["constants"]}
    words = ", ".join(f"{name} = {value}" for name, value in changed.items())
    spent = [run["tokens"] for run in record["runs"] if run.get("tokens")]
    shown = [
        f"**{asked['text']}**{f', with {words}' if words else ''}: {asked['seconds']:g} s, "
        f"{many(facts['threads'], 'thread')}, {facts['precision']}, {facts['train_bytes'] / 1e6:.1f} MB of train, "
        f"{facts['dev_bytes'] / 1e3:.0f} kB of dev"
        + (f", {statistics.fmean(spent) / 1e6:.2f} M tokens per run." if spent else "."),
        "",
    ]
    own = [who for who in (OURS, ALONE) if who in found]
    titles = ["system", "bits per byte", "seeds", *(f"{who} divided by it" for who in own)]
    shown += [f"| {' | '.join(titles)} |", f"| {' | '.join(['---'] * len(titles))} |"]
    for who, item in found.items():
        spread = f" ± {item['sd_bpb']:g}" if item["sd_bpb"] is not None else ""
        names = () if who in own else ("ours_to_it", "alone_to_it")
        ratios = [ratio_words(item.get(name)) for name in names] or [""] * len(own)
        cells = [who, f"{item['mean_bpb']:.4f}{spread}", str(item["seeds"]), *ratios[: len(own)]]
        shown.append(f"| {' | '.join(cells)} |")
    for floor, value in facts["floors"].items():
        cells = [floor, f"{value:.4f}", "", *(f"{found[who]['mean_bpb'] / value:.3f}" for who in own)]
        shown.append(f"| {' | '.join(cells)} |")
    failures = dict.fromkeys(
        f"{run['key'].rpartition(' ')[0]}: {run['failure']}" for run in record["runs"] if run.get("failure")
    )
    return [*shown, *(f"\nNo figure of {failure}." for failure in failures)]
