"""The baselines' answers on dev are kept, and measured again as soon as anything they depend on is another."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slm_ar.core.contracts import Task, TaskAnswer, TaskScore
from slm_ar.core.registry import load_adapter
from slm_ar.core.tasks import exam
from slm_ar.core.tasks.exam import measured_baselines

TASK = Task("cause", "choice", "accuracy", "max", choices=("a", "b"))
SCORE = TaskScore("cause", "dev", {"accuracy": 1.0}, (TaskAnswer("d", 0, "g", "a", "a"),))
ADAPTER_PY = """
from slm_ar.core.contracts import DuplicatePolicy, SplitRule


class Own:
    name, version, split, duplicates = "own", 1, SplitRule.GROUP, DuplicatePolicy.EXACT
    tasks, slice_keys, options = (), (), {}

    def documents(self): ...
    def slices(self): ...
    def describe(self): ...
    def sample(self): ...
"""

Measure = Callable[..., int]


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Asks for the baselines and returns how often they have been measured so far."""
    calls: list[object] = []

    def measured(*given: object) -> dict[str, dict[str, TaskScore]]:
        calls.append(given)
        return {"cause": {"most frequent": SCORE}}

    monkeypatch.setattr(exam, "measure_baselines", measured)
    monkeypatch.setattr(exam, "read_answers", lambda path: [])

    def ask(adapter: object = None, answers_digest: str = "1", tasks: tuple[Task, ...] = (TASK,)) -> int:
        manifest = SimpleNamespace(answers_digest=answers_digest, tasks=tasks)
        data: Any = SimpleNamespace(digest="d", manifest=manifest, held_folder=tmp_path, folder=tmp_path)
        assert measured_baselines(data, "dev", [], adapter) == {"cause": {"most frequent": SCORE}}
        return len(calls)

    return ask


def test_equal_questions_are_answered_once(measure: Measure, tmp_path: Path) -> None:
    assert [measure(), measure(), measure(SimpleNamespace(name="other")), measure()] == [1, 1, 2, 2]
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_other_answers_of_train_are_learned_from(measure: Measure) -> None:
    assert [measure(), measure(answers_digest="2")] == [1, 2]


@pytest.mark.parametrize("package", ["slm-ar", "scikit-learn"])
def test_other_software_answers_again(measure: Measure, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    measure()
    monkeypatch.setattr(exam, "version", lambda name: "0.0.1" if name == package else metadata.version(name))
    assert [measure(), measure()] == [2, 2]


def test_an_edited_adapter_answers_again(measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "own_package_of_toys"
    package.mkdir()
    (package / "__init__.py").write_text(ADAPTER_PY, encoding="utf-8")
    (package / "helper.py").write_text("", encoding="utf-8")
    from own_package_of_toys import Own  # type: ignore[import-not-found]

    assert [measure(Own()), measure(Own())] == [1, 1]
    (package / "helper.py").write_text("# edited\n", encoding="utf-8")
    assert measure(Own()) == 2


def test_an_edited_adapter_file_answers_again(measure: Measure, tmp_path: Path) -> None:
    path = tmp_path / "own_toys.py"
    example = load_adapter_of(path)
    assert [measure(example), measure(example)] == [1, 1]
    path.write_text(ADAPTER_PY + "# edited\n", encoding="utf-8")
    assert measure(example) == 2


def load_adapter_of(path: Path) -> object:
    """The class Own in a file, loaded as the registry loads files."""
    path.write_text(ADAPTER_PY, encoding="utf-8")
    return load_adapter(f"{path}:Own")


@pytest.mark.parametrize("damage", ["[]", "{", '{"cause": []}', '{"cause": {"x": {}}}', "\udcff"])
def test_a_damaged_file_is_measured_again(measure: Measure, tmp_path: Path, damage: str) -> None:
    measure()
    (kept,) = tmp_path.glob("baselines-*.json")
    kept.write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert [measure(), measure()] == [2, 2]


def test_two_processes_do_not_write_into_one_file(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    replace = Path.replace

    def note(self: Path, target: Path) -> Path:
        written.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", note)
    measure()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    measure(answers_digest="2")
    assert len({name.split(".", 1)[1] for name in written}) == 2
