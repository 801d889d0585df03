"""`make bench`: what is measured is written at once, what is void counts for nothing, the page says what is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as bench
from benchmarks.common import Opened, Run, Settings, code_digest, interval_of_ratio, with_constants, write
from benchmarks.page import PAGE, PARTS, RESULTS, page, records_of
from slm_ar.core.cli.workspace import template
from slm_ar.core.errors import UsageError


class ToyPart:
    """A part whose measurements are told by the test."""

    LABEL, TITLE, WHAT = "B0", "Toy", "Nothing."

    def __init__(self, measure: Callable[[str], Run]) -> None:
        self.calls: list[str] = []
        self._measure = measure

    def name(self, settings: Settings) -> str:
        return "toy"

    def asked(self, settings: Settings) -> dict[str, Any]:
        return {"seconds": settings.seconds}

    def keys(self, settings: Settings) -> list[str]:
        return [f"run {number}" for number in range(settings.seeds)]

    def seconds(self, settings: Settings) -> float:
        return 90.0 * settings.seeds

    @contextmanager
    def opened(self, settings: Settings, folder: Path) -> Iterator[Opened]:
        def measure(key: str) -> Run:
            self.calls.append(key)
            return self._measure(key)

        yield Opened({"threads": 1}, measure)

    def summary(self, runs: Sequence[Run]) -> dict[str, Any]:
        return {"count": len(runs), "sum": sum(run["figure"] for run in runs)}

    def lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"sum {record['summary']['sum']}"]


Use = Callable[[Callable[[str], Run]], ToyPart]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Puts a toy part among the parts."""

    def put(measure: Callable[[str], Run]) -> ToyPart:
        part = ToyPart(measure)
        monkeypatch.setitem(PARTS, "toy", part)  # type: ignore[arg-type]
        return part

    return put


def figure(key: str) -> Run:
    return {"figure": 1.0 + int(key.split()[1]), "void": ""}


def started(folder: Path, *more: str) -> int:
    return bench.main(["--only", "toy", "--seeds", "3", "--results", str(folder), *more])


def toy_record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "toy.json").read_text(encoding="utf-8"))
    return found


def test_a_result_says_where_and_with_what_it_was_measured(
    use: Use, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(figure)
    assert started(tmp_path) == 0
    record = toy_record(tmp_path)
    assert record["machine"]["cores"] >= 1 and record["versions"]["torch"] and record["code"] == code_digest()
    assert set(record) >= {"at", "commit", "load_before", "load_after", "asked", "facts", "is_quick"}
    assert [run["key"] for run in record["runs"]] == ["run 0", "run 1", "run 2"]
    assert all(set(run) >= {"at", "load", "void"} for run in record["runs"])
    assert record["summary"] == {"count": 3, "sum": 6.0}
    output = capsys.readouterr()
    assert "About 5 minutes in all" in output.err  # three times 90 s
    assert "sum 6.0" in output.out


def test_a_break_loses_nothing_and_the_next_start_goes_on(use: Use, tmp_path: Path) -> None:
    def broken(key: str) -> Run:
        if key == "run 1":
            raise KeyboardInterrupt
        return figure(key)

    use(broken)
    assert started(tmp_path) == 130
    assert [run["key"] for run in toy_record(tmp_path)["runs"]] == ["run 0"]
    part = use(figure)
    assert started(tmp_path) == 0
    assert part.calls == ["run 1", "run 2"]
    assert toy_record(tmp_path)["summary"]["count"] == 3
    assert started(tmp_path) == 0
    assert part.calls == ["run 1", "run 2"]  # nothing was missing


def test_a_void_measurement_is_made_again_and_counts_for_nothing(use: Use, tmp_path: Path) -> None:
    def disturbed(key: str) -> Run:
        is_first = part.calls.count(key) == 1
        return {"figure": 100.0, "void": "other programs used 1.5 of 2 cores"} if is_first else figure(key)

    part = use(disturbed)
    assert started(tmp_path) == 0
    record = toy_record(tmp_path)
    assert record["summary"] == {"count": 3, "sum": 6.0}
    assert sum(bool(run["void"]) for run in record["runs"]) == 3


def test_too_few_measurements_that_count_end_with_an_error_and_a_way_out(
    use: Use, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = "other programs used 1.5 of 2 cores"
    part = use(lambda key: figure(key) | ({"void": busy} if key != "run 0" else {}))
    assert started(tmp_path) == 1
    assert part.calls == ["run 0", *["run 1"] * bench.ATTEMPTS, *["run 2"] * bench.ATTEMPTS]
    error = capsys.readouterr().err
    assert "toy: only 1 of 3 measurements count" in error and busy in error and "close other programs" in error
    part = use(figure)
    assert started(tmp_path) == 0
    assert part.calls == ["run 1", "run 2"]


def test_a_failure_is_told_and_tried_again_by_the_next_start(
    use: Use, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(lambda key: {"failure": "it ended with exit code 3", "void": ""} if key == "run 2" else figure(key))
    assert started(tmp_path) == 1
    assert "toy: no figure of run: it ended with exit code 3" in capsys.readouterr().err
    part = use(figure)
    assert started(tmp_path) == 0
    assert part.calls == ["run 2"]
    assert not any("failure" in run for run in toy_record(tmp_path)["runs"])


def test_figures_of_other_settings_never_mix(use: Use, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use(figure)
    assert started(tmp_path, "--seconds", "3") == 0
    assert started(tmp_path, "--seconds", "4") == 2
    assert "another settings" in capsys.readouterr().err
    assert toy_record(tmp_path)["asked"] == {"seconds": 3.0}
    assert started(tmp_path, "--seconds", "4", "--fresh") == 0
    assert toy_record(tmp_path)["asked"] == {"seconds": 4.0}


def test_figures_of_other_code_never_mix(use: Use, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use(figure)
    assert started(tmp_path) == 0
    write(tmp_path / "toy.json", toy_record(tmp_path) | {"code": "0"})
    assert started(tmp_path) == 2
    assert "another code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--text", "nowhere.txt"], "there is no file nowhere.txt"),
        (["--seeds", "0"], "larger than 0"),
        (["--set", "evaluation.context"], "is not NAME=VALUE"),
        (["--peer", "one", "--peer", "two"], "two systems have one name"),
        (["--peer", "slm-ar=one"], "two systems have one name"),
        (["--peer", "'"], "is no command"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    given: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main([*given, "--results", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_recipe_keys_and_constants_are_read_as_they_are_written() -> None:
    given = ["--set", "evaluation.context=128", "--set", "evaluation.mixture=ngram", "--knob", "CONTEXT=512"]
    settings = bench.settings_of(bench.parser().parse_args(given))
    assert settings.changes == {"evaluation.context": 128, "evaluation.mixture": "ngram"}
    assert settings.constants == {"CONTEXT": "512"}


def test_knobs_and_plain_constants_of_train_py_can_be_set() -> None:
    text = 'FORM = "portable"  # or "best"\nLIMIT: int = 3\n' + template("train.py")
    found = with_constants(text, {"CONTEXT": "512", "FORM": '"best"', "LIMIT": "4"})
    assert 'FORM = "best"  # or "best"\nLIMIT: int = 4\n' in found
    assert "\nCONTEXT = 512  # knob" in found
    with pytest.raises(UsageError, match="no constant NOTHING"):
        with_constants(text, {"NOTHING": "1"})
    with pytest.raises(UsageError, match="is a number"):
        with_constants(text, {"MATRIX_LR": "fast"})


def test_a_ratio_is_taken_pair_by_pair() -> None:
    found = interval_of_ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert found == {"ratio": 0.5, "pairs": 3, "low": 0.5, "high": 0.5}
    wide = interval_of_ratio([1.0, 4.0], [2.0, 2.0])
    assert wide is not None and wide["ratio"] == 1.0 and wide["low"] < 0.1 and wide["high"] > 10
    assert interval_of_ratio([3.0], [2.0]) == {"ratio": 1.5, "pairs": 1}
    assert interval_of_ratio([], []) is None


def test_the_page_in_the_repository_says_what_the_results_in_it_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(records_of(RESULTS)), "refresh it with `make bench-page`"


def test_the_page_names_what_was_not_measured_and_refuses_toys(use: Use, tmp_path: Path) -> None:
    use(figure)
    assert page([]).count("\nNot measured.\n") == len(PARTS)
    assert started(tmp_path) == 0
    text = page(records_of(tmp_path))
    assert "## Toy (B0)\n\nNothing.\n\nsum 6.0\n" in text and "3 measurements, 0 void" in text
    assert started(tmp_path, "--quick", "--fresh") == 0
    with pytest.raises(UsageError, match="quick"):
        page(records_of(tmp_path))
