"""The conformance suite finds what an adapter does wrong, also what its author cannot see on one machine."""

from __future__ import annotations

import os
import socket
from importlib import resources
from pathlib import Path

import pytest

from slm_ar.core import testing
from slm_ar.core.contracts import SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.registry import load_adapter
from slm_ar.core.testing import check_adapter, check_without_source

READING = "        found = False\n"
SAMPLING = "        total = number = 0\n"
NO_END = "        while total < size:\n"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A table beside which nothing else lies."""
    folder = tmp_path / "rows"
    folder.mkdir()
    path = folder / "rows.csv"
    path.write_text("amount,shop,size\n" + "".join(f"{n},{'abc'[n % 3]},large\n" for n in range(40)), encoding="utf-8")
    return path


def problems_of(tmp_path: Path, source: Path | None, old: str = "", new: str = "") -> list[str]:
    """What the suite says of the adapter that `slm-ar adapters new` writes, with `old` replaced by `new`."""
    text = resources.files("slm_ar.program_templates").joinpath("adapter.py").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "own.py"
    path.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
    adapter = load_adapter(str(path))
    return check_without_source(adapter) if source is None else check_adapter(adapter, source, SourceOptions())


def kinds(problems: list[str]) -> set[str]:
    return {problem.partition(":")[0] for problem in problems}


@pytest.mark.parametrize("is_folder", [True, False])
def test_the_template_keeps_its_contract(tmp_path: Path, rows: Path, is_folder: bool) -> None:
    assert problems_of(tmp_path, rows.parent if is_folder else rows) == []


def test_a_sample_without_end_is_a_finding(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, None, NO_END, "        while True:\n")
    assert problem.startswith("sample: 20000 bytes were asked for, ")


def test_a_sample_of_empty_documents_without_end_is_a_finding(tmp_path: Path) -> None:
    empty = "        while True:\n            yield Document('x', '', 'g')\n"
    assert "sample" in kinds(problems_of(tmp_path, None, NO_END, empty + NO_END))


def test_a_sample_that_raises_is_a_finding(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, None, SAMPLING, "        {}['no such field']\n" + SAMPLING)
    assert problem.startswith("errors: KeyError instead of DataError: 'no such field'")


@pytest.mark.parametrize("place", ["source.parent / 'cache.json'", "source.parent / 'other.csv'"])
def test_a_file_written_beside_the_source_is_a_finding(tmp_path: Path, rows: Path, place: str) -> None:
    (rows.parent / "other.csv").write_text("an older file", encoding="utf-8")
    problems = problems_of(tmp_path, rows, READING, f"        ({place}).write_text('kept')\n{READING}")
    (problem,) = [problem for problem in problems if problem.startswith("writes: ")]
    assert place.split("'")[1] in problem


CALLS = [
    "socket.create_connection(('127.0.0.1', 9), timeout=1)",
    "opened.connect(('127.0.0.1', 9))",
    "opened.connect_ex(('127.0.0.1', 9))",
    "opened.sendto(b'x', ('127.0.0.1', 9))",
    "opened.sendmsg([b'x'], [], 0, ('127.0.0.1', 9))",
    "socket.getaddrinfo('localhost', 9)",
    "socket.gethostbyname('localhost')",
]


@pytest.mark.parametrize("call", CALLS)
def test_every_way_into_the_network_is_a_finding(tmp_path: Path, rows: Path, call: str) -> None:
    before = {name: getattr(socket.socket, name) for name in testing.SOCKET_METHODS}
    opened = "socket.socket(type=socket.SOCK_DGRAM) as opened"
    quiet = (
        f"        import contextlib, socket\n        with contextlib.suppress(OSError), {opened}:\n            {call}\n"
    )
    assert "network" in kinds(problems_of(tmp_path, rows, READING, quiet + READING))
    assert {name: getattr(socket.socket, name) for name in testing.SOCKET_METHODS} == before


def test_an_order_that_depends_on_the_process_is_a_finding(tmp_path: Path, rows: Path) -> None:
    (rows.parent / "names.txt").write_text("", encoding="utf-8")
    old = "in _rows(source, options, self._counts):\n            if"
    new = "in sorted(_rows(source, options, self._counts), key=lambda row: hash(row[0])):\n            if"
    (problem,) = problems_of(tmp_path, rows, old, new)
    assert problem.startswith("stable order: another process gives other documents")


def test_a_sample_that_depends_on_the_process_is_a_finding(tmp_path: Path, rows: Path) -> None:
    (problem,) = problems_of(
        tmp_path, rows, 'random.Random(f"template {seed}")', "random.Random(hash('template') + seed)"
    )
    assert problem.startswith("stable order: another process")


def test_the_other_process_holds_no_keys_of_this_one(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "k")
    monkeypatch.setenv("SOME_SETTING", "s")
    seen = tmp_path / "seen.txt"
    looking = f"""        import os, pathlib
        with pathlib.Path({str(seen)!r}).open("a") as file:
            print(os.getpid(), "SOME_API_KEY" in os.environ, os.environ["SOME_SETTING"], file=file)
"""
    assert problems_of(tmp_path, rows, READING, looking + READING) == []
    lines = {tuple(line.split()) for line in seen.read_text().splitlines()}
    others = {line[1:] for line in lines if line[0] != str(os.getpid())}
    assert others == {("False", "s")} and (str(os.getpid()), "True", "s") in lines


def test_an_adapter_that_another_process_cannot_have_is_checked_without_it(rows: Path, tmp_path: Path) -> None:
    problems_of(tmp_path, rows)
    template = type(load_adapter(str(tmp_path / "own.py")))

    class Local(template):  # type: ignore[misc,valid-type]
        pass

    assert check_adapter(Local(), rows) == []


# --- the adapter that `slm-ar adapters new` writes -----------------------------------------------


def test_rows_without_an_answer_are_questions_and_no_documents(tmp_path: Path) -> None:
    from slm_ar.program_templates.adapter import TemplateAdapter

    source = tmp_path / "rows.csv"
    source.write_text("amount,size\n1,small\n2,\n3, \n4,large\n", encoding="utf-8")
    adapter = TemplateAdapter()
    assert [document.id for document in adapter.documents(source, SourceOptions())] == ["rows.csv:1", "rows.csv:4"]
    assert adapter.notices == [f"{source}: rows without an answer, skipped: 2"]
    assert [document.id for document in adapter.questions(source, SourceOptions())] == ["rows.csv:2", "rows.csv:3"]
    source.write_text("amount,size\n2,\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no rows with an answer") as caught:
        list(adapter.documents(source, SourceOptions()))
    assert "rows without an answer, skipped: 1" in caught.value.hint


def test_files_of_one_name_in_two_folders_give_different_ids(tmp_path: Path) -> None:
    from slm_ar.program_templates.adapter import TemplateAdapter

    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.csv").write_text("amount,size\n1,small\n", encoding="utf-8")
    found = [document.id for document in TemplateAdapter().documents(tmp_path, SourceOptions())]
    assert found == ["a/rows.csv:1", "b/rows.csv:1"]


def test_what_the_reader_tolerated_is_told(tmp_path: Path) -> None:
    from slm_ar.program_templates.adapter import TemplateAdapter

    source = tmp_path / "rows.csv"
    source.write_text("amount,shop,size\n" + "1,a,small\n" * 30 + "1,a,small,more\n", encoding="utf-8")
    adapter = TemplateAdapter()
    for _ in range(2):
        assert len(list(adapter.documents(source, SourceOptions()))) == 31
        assert len(adapter.notices) == 1
