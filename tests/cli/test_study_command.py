"""What `slm-ar study` says of mistakes, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands_in_process import Command, told


def test_the_example_is_printed(slm_ar: Command) -> None:
    ended = slm_ar("study", "--example")
    assert ended.code == 0 and "[[corpora]]" in ended.out


@pytest.mark.parametrize(
    ("change", "arguments", "parts"),
    [
        (("", ""), [], ["toy.table.jsonl is missing", "--mode record"]),
        (("", ""), ["--mode", "record"], ["there is no folder", "slm-ar new"]),
        (('workspace = "toy"', ""), ["--mode", "live"], ["corpus toy names no workspace"]),
        (('workspace = "toy"', 'workspace = "."'), ["--mode", "record"], ["is not a workspace"]),
        (('mode = "s', 'folder = "~no one/x"\nmode = "s'), [], ["'~no one/x' names no file", "write the path out"]),
        (('workspace = "toy"', 'table = "a\\u0000b"'), [], ["names no file"]),
        (('workspace = "toy"', 'workspace = "~no one/x"'), ["--mode", "live"], ["names no file"]),
        (('"search", "random"', '"serch", "random"'), [], ["'serch' is no proposer", "Did you mean 'search'"]),
        (('"search", "random"', '"claude", "random"'), [], ["'claude' is no proposer", "language model"]),
        (("", ""), ["--mode", "live", "--jobs", "2"], ["one at a time"]),
        (("runs = 4", "runs = 1"), [], ["line 17: search.runs: must be a whole number, at least 2"]),
    ],
)
def test_mistakes_are_told(
    slm_ar: Command, study: Path, change: tuple[str, str], arguments: list[str], parts: list[str]
) -> None:
    study.write_text(study.read_text(encoding="utf-8").replace(*change, 1), encoding="utf-8")
    told(slm_ar("study", str(study), "--quiet", *arguments), 2, *parts)


def test_without_a_file(slm_ar: Command) -> None:
    told(slm_ar("study"), 2, "which study?", "--example")
    told(slm_ar("study", "none.toml"), 2, "there is no study file")
