"""`make bench`: measures quality, prepare, loader, step rate, overhead, load and early stopping, and writes JSON.

    python -m benchmarks [--text FILE] [--seconds 10] [--seeds 5] [--peer 'COMMAND'] [--only quality loader]

Without --text it uses the synthetic city of the demo. Every measurement is written at once; the same command goes on
with what is missing. A measurement that other programs disturbed is void, and made again. Close other programs first.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from slm_ar.core.errors import SlmArError, UsageError

from . import peer
from .common import ROOT, Settings, facts, load, many, note, private_in, write
from .page import PARTS, section

RESULTS = ROOT / ".bench"
ATTEMPTS = 3
"""Measurements of one key in one start, as long as they are void."""
FEWEST_SHARE = 0.6
"""Of the measurements of a part that must count for it to have succeeded."""
SAME = ("asked", "machine", "versions", "code", "is_quick")
"""What measurements of one file have in common."""


def main(given: list[str] | None = None) -> int:
    """The exit code: 0 when everything that was asked for is measured."""
    options = parser()
    arguments = options.parse_args(given)
    try:
        return bench(settings_of(arguments), arguments.only or list(PARTS), arguments.results, arguments.fresh)
    except SlmArError as error:
        note(f"\n{error}")
        return error.exit_code
    except KeyboardInterrupt:
        note("\nstopped; the same command goes on with what is missing")
        return 130


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    found.add_argument("--text", type=Path, help="Text file; without one, the synthetic city of the demo.")
    found.add_argument("--seconds", type=float, help="Training seconds of one run of quality and pruning (10).")
    found.add_argument("--seeds", type=int, help="Runs, or rounds, of every part (5).")
    of_text = "kB at the end of a text that are dev, at most 12 %% of it (200)."
    found.add_argument("--held-kb", type=int, default=200, help=of_text)
    found.add_argument("--peer", action="append", default=[], help="COMMAND or NAME=COMMAND; may be repeated.")
    found.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="Recipe key, for quality and pruning."
    )
    found.add_argument(
        "--knob", action="append", default=[], metavar="NAME=VALUE", help="Constant of train.py, for both."
    )
    found.add_argument("--only", nargs="+", choices=[*PARTS], help="Parts to measure; all without it.")
    found.add_argument("--quick", action="store_true", help="Toy size: shows that all works, figures say nothing.")
    found.add_argument("--fresh", action="store_true", help="Drop what earlier starts measured.")
    found.add_argument("--results", type=Path, default=RESULTS, help="Folder of the JSON files (.bench).")
    return found


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Raises UsageError."""
    seconds = arguments.seconds if arguments.seconds is not None else (1.0 if arguments.quick else 10.0)
    seeds = arguments.seeds if arguments.seeds is not None else (1 if arguments.quick else 5)
    if arguments.text is not None and not arguments.text.is_file():
        raise UsageError(f"there is no file {arguments.text}", "give TEXT=FILE, or leave it out for the synthetic city")
    if not (seconds > 0 and seeds > 0 and math.isfinite(seconds)):
        raise UsageError("SECONDS and SEEDS are larger than 0")
    names = [peer.named(given)[0] for given in arguments.peer]
    if len({"slm-ar", *names}) <= len(names):
        raise UsageError("two systems have one name", "name them: PEER='NAME=COMMAND'")
    return Settings(
        text=arguments.text,
        seconds=seconds,
        seeds=seeds,
        held_kb=arguments.held_kb,
        peers=tuple(arguments.peer),
        changes={name: _toml_value(name, value) for name, value in map(_pair, arguments.set)},
        constants=dict(map(_pair, arguments.knob)),
        is_quick=arguments.quick,
    )


def _pair(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise UsageError(f"{given!r} is not NAME=VALUE", "such as evaluation.context=512, or CONTEXT=512")
    return name.strip(), value.strip()


def _toml_value(name: str, value: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value  # a word needs no quotes here


def bench(settings: Settings, names: list[str], results: Path, fresh: bool) -> int:
    """Measure what is missing of the named parts, and show all of them."""
    parts = {name: PARTS[name] for name in PARTS if name in names}
    records = {name: record_of(name, part, settings, results, fresh) for name, part in parts.items()}
    waiting = {name: len(missing(parts[name], settings, records[name])) for name in parts}
    about = {name: parts[name].seconds(settings) * waiting[name] / len(parts[name].keys(settings)) for name in parts}
    for name, part in parts.items():
        word = (
            f"{many(waiting[name], 'measurement')}, about {about[name] / 60:.1f} min"
            if waiting[name]
            else "measured already"
        )
        note(f"{name:<9} {part.TITLE}: {word}")
    minutes = math.ceil(sum(about.values()) / 60)
    note(f"About {minutes} minutes in all, longer where other programs disturb. Results: {results}")
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="slm-ar-bench-") as place, private_in(Path(place)):
        for name, part in parts.items():
            if waiting[name]:
                note(f"\n{name}")
                problems += measured(name, part, settings, records[name], results, Path(place) / name)
            print("\n".join(["", f"## {part.TITLE} ({part.LABEL})", "", *section(records[name])]), flush=True)
    for problem in problems:
        note(f"\n{problem}")
    return 1 if problems else 0


def record_of(name: str, part: ModuleType, settings: Settings, folder: Path, fresh: bool) -> dict[str, Any]:
    """What earlier starts measured, or an empty record. Raises UsageError where the two cannot stand together."""
    path = folder / f"{part.name(settings)}.json"
    new = {
        "part": name,
        **facts(),
        "asked": part.asked(settings),
        "is_quick": settings.is_quick,
        "facts": {},
        "runs": [],
    }
    new["summary"] = part.summary([])
    if fresh or not path.exists():
        return new
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    other = [word for word in SAME if known.get(word) != json.loads(json.dumps(new[word]))]
    if other:
        words = {"asked": "settings", "is_quick": "size (quick or not)"}
        raise UsageError(
            f"{path} was measured with another {', '.join(words.get(word, word) for word in other)}",
            "FRESH=1 (--fresh) measures anew, RESULTS=FOLDER (--results) keeps both",
        )
    return known


def counts(run: Mapping[str, Any]) -> bool:
    return not run["void"] and "failure" not in run


def missing(part: ModuleType, settings: Settings, record: Mapping[str, Any]) -> list[str]:
    """Keys that have no measurement that counts, in the order in which they are measured."""
    known = {run["key"] for run in record["runs"] if counts(run)}
    return [key for key in part.keys(settings) if key not in known]


def measured(
    name: str, part: ModuleType, settings: Settings, record: dict[str, Any], results: Path, folder: Path
) -> list[str]:
    """Measure what the record lacks, writing it after every run; what is wrong with it afterwards, in words."""
    path = results / f"{part.name(settings)}.json"
    wanted = missing(part, settings, record)
    record["runs"] = [run for run in record["runs"] if "failure" not in run]  # what failed is tried again
    with part.opened(settings, folder) as opened:
        record["facts"] = dict(opened.facts)
        for key in wanted:
            for _ in range(ATTEMPTS):
                run = {"key": key, "at": datetime.now(UTC).isoformat(timespec="seconds"), "load": load()}
                run |= opened.measure(key)
                record["runs"].append(run)
                record["summary"] = part.summary([run for run in record["runs"] if counts(run)])
                record["load_after"] = load()
                write(path, record)
                note(f"  {key}: {told(run)}")
                if not run["void"]:
                    break
    return verdicts(name, part.keys(settings), record)


def told(run: Mapping[str, Any]) -> str:
    if run["void"] or "failure" in run:
        return f"void: {run['void']}" if run["void"] else f"no figure: {run['failure']}"
    if "reason" in run:
        return f"{run['status']}: {run['reason']}"
    figures = [f"{name} {value:g}" for name, value in run.items() if isinstance(value, float) and name != "load"]
    return ", ".join(figures[:3]) or "measured"


def verdicts(name: str, keys: list[str], record: Mapping[str, Any]) -> list[str]:
    """Why a part is not as it was asked for: failures, and too many disturbed measurements."""
    failed = {run["key"]: run["failure"] for run in record["runs"] if "failure" in run}
    whole = {run["key"] for run in record["runs"] if counts(run)}
    found = [
        f"{name}: no figure of {who}: {reason}"
        for who, reason in dict.fromkeys((key.rpartition(" ")[0] or key, reason) for key, reason in failed.items())
    ]
    due = [key for key in keys if key not in failed]
    valid = sum(key in whole for key in due)
    if valid < max(1, math.ceil(FEWEST_SHARE * len(due))) and due:
        why = next((run["void"] for run in reversed(record["runs"]) if run["void"]), "disturbed")
        found.append(
            f"{name}: only {valid} of {len(due)} measurements count, the others are void ({why}): close other programs "
            "and start the same command again; what counts is kept"
        )
    return found


def end_as_by_ctrl_c() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does: with the processes that it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


if __name__ == "__main__":
    end_as_by_ctrl_c()
    sys.exit(main())
