"""docs/benchmarks.md, made from the results in benchmarks/results: `python -m benchmarks.page`, or `make bench-page`.

A test holds the page to them. Promises: nothing is on the page that is not in a result, a measurement that was not made
is named, and a toy run is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from slm_ar.core.errors import UsageError

from . import busy, loader, overhead, prepare, pruning, quality, steps
from .common import ROOT, many, write

PARTS: dict[str, ModuleType] = {
    "quality": quality,
    "prepare": prepare,
    "loader": loader,
    "steps": steps,
    "overhead": overhead,
    "busy": busy,
    "pruning": pruning,
}
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Made by `make bench-page` from the files in `benchmarks/results`; nothing here is written by hand. `make bench` measures
the same on your machine, on a synthetic city or on your text (`make bench TEXT=FILE`), and says beforehand how long it
takes; `make bench-help` lists what can be set. Ratios are of measurements made in turn in one run; intervals are 95 %,
over seeds or rounds. A measurement beside which other programs computed is void: it is made again up to three times,
and never in a figure below. A peer is any command that you give, `PEER='COMMAND'`: it gets a train file, a dev file and
the seconds as arguments, the number of threads as OMP_NUM_THREADS, a SEED, and prints its bits per byte of the dev file
as its last line.
"""


def records_of(folder: Path) -> list[dict[str, Any]]:
    """The results of a folder, in the order of their names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """The whole page. Raises UsageError when a result is a toy."""
    text = [HEAD]
    for part, module in PARTS.items():
        own = [record for record in records if record["part"] == part]
        text += [f"## {module.TITLE} ({module.LABEL})", "", wrapped(module.WHAT), ""]
        for record in own:
            if record["is_quick"]:
                raise UsageError(
                    "a quick run shows that everything works, its figures say nothing", "measure without QUICK"
                )
            text += [*section(record), ""]
        if not own:
            text += ["Not measured.", ""]
    return "\n".join(text).rstrip() + "\n"


def wrapped(text: str) -> str:
    """In lines as long as those of the other pages."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def section(record: Mapping[str, Any]) -> list[str]:
    """The figures of one result, and where they come from."""
    found: list[str] = PARTS[record["part"]].lines(record) or ["No measurement counts."]
    return [*found, "", origin(record)]


def origin(record: Mapping[str, Any]) -> str:
    machine, versions = record["machine"], record["versions"]
    loads = [run["load"] for run in record["runs"]] or [record["load_before"]]
    void = sum(bool(run["void"]) for run in record["runs"])
    names = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "tokenizers") if versions.get(name))
    return wrapped(
        f"*{record['at'][:10]}, {machine['processor']}, {many(machine['cores'], 'core')}, "
        f"{machine['memory_gb']} GB, {names}, "
        f"slm-ar {record['commit'] or versions['slm-ar']}; load {min(loads):.1f} to {max(loads):.1f}; "
        f"{many(len(record['runs']) - void, 'measurement')}, {void} void.*"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--results", type=Path, default=RESULTS)
    options.add_argument("--out", type=Path, default=PAGE)
    arguments = options.parse_args()
    try:
        write(arguments.out, page(records_of(arguments.results)))
    except UsageError as error:
        sys.exit(f"{error.message}\n{error.hint}")


if __name__ == "__main__":
    main()
