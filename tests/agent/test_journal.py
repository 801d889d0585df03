"""The journal: nothing that was written can be changed, lost or doubled without being noticed."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.core.agent.journal import Journal, get_private, put_private, workspace_lock
from slm_ar.core.errors import BudgetError, JournalError, WorkspaceBusyError
from slm_ar.core.prepare.heldout import private_root

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


def filled(folder: Path, count: int = 5) -> Path:
    with Journal(folder) as journal:
        for number in range(count):
            journal.append("note", {"number": number, "text": f"Käthe {number}\n"})
    return folder / "journal.db"


def change(path: Path, *statements: str) -> None:
    """What someone with an SQL shell and bad intentions can do."""
    database = sqlite3.connect(path)
    database.executescript("DROP TRIGGER events_are_final; DROP TRIGGER events_stay;")
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


# --- writing and reading --------------------------------------------------------------------


@given(st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=4), max_size=8))
@settings(max_examples=40, deadline=None)
def test_what_was_appended_is_read_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[dict[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    with Journal(folder) as journal:
        written = [journal.append("kind", body) for body in bodies]
        assert list(journal.events) == written
    with Journal(folder, read_only=True) as journal:
        assert list(journal.events) == written
    assert [event.number for event in written] == list(range(1, len(bodies) + 1))
    assert [event.body for event in written] == bodies


def test_each_hash_covers_the_whole_past(tmp_path: Path) -> None:
    hashes = []
    for name, first in (("a", 1), ("b", 2)):
        with Journal(tmp_path / name) as journal:
            journal.append("note", {"first": first})
            hashes.append(journal.append("note", {"second": 0}).hash)
    assert hashes[0] != hashes[1]


def test_a_reader_sees_what_a_living_writer_has_written(tmp_path: Path) -> None:
    with Journal(tmp_path) as writer:
        writer.append("note", {"a": 1})
        with Journal(tmp_path, read_only=True) as reader:
            assert [event.body for event in reader.events] == [{"a": 1}]
        writer.append("note", {"a": 2})


def test_an_event_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    """Killed at once, the process leaves the event behind."""
    code = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom slm_ar.core.agent.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\njournal.append('note', {'a': 1})\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
    assert done.returncode == -9
    with Journal(tmp_path) as journal:
        assert [event.body for event in journal.events] == [{"a": 1}]
        journal.append("note", {"a": 2})
    with Journal(tmp_path) as journal:
        assert len(journal.events) == 2


def test_it_is_written_with_full_durability(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        modes = [journal._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]


def test_not_a_number_never_enters(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        with pytest.raises(ValueError):
            journal.append("note", {"score": float("nan")})
        assert journal.events == ()
        journal.append("note", {"score": 1.0})


def test_half_a_surrogate_pair_does_not_end_a_night(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        event = journal.append("note", {"reason": "tensor '\ud800' and \udfff", "fine": "Käthe \U0001f600"})
        assert event.body == {"reason": "tensor '?' and ?", "fine": "Käthe \U0001f600"}
    with Journal(tmp_path, read_only=True) as journal:
        assert [event.body for event in journal.events] == [event.body]


def test_reading_where_there_is_no_journal_creates_none(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal yet"):
        Journal(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []


# --- tampering ------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["UPDATE events SET body = '{}'", "DELETE FROM events WHERE number = 3"])
def test_sql_cannot_change_or_delete_an_event(tmp_path: Path, statement: str) -> None:
    path = filled(tmp_path)
    database = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(statement)
    database.close()
    with Journal(tmp_path) as journal:
        assert len(journal.events) == 5


@pytest.mark.parametrize(
    ("statement", "good"),
    [
        ("UPDATE events SET body = replace(body, '2', '7') WHERE number = 3", 2),
        ("UPDATE events SET kind = 'judged' WHERE number = 1", 0),
        ("UPDATE events SET at = '2020-01-01T00:00:00+00:00' WHERE number = 5", 4),
        ("UPDATE events SET hash = upper(hash) WHERE number = 4", 3),
        ("DELETE FROM events WHERE number = 2", 1),
        ("DELETE FROM events WHERE number = 1", 0),
        ("UPDATE events SET number = 9 WHERE number = 5", 4),
        ("INSERT INTO events VALUES (6, '2026-01-01', 'note', '{}', 'abc')", 5),
    ],
)
def test_a_tampered_journal_is_refused_with_its_last_good_event(tmp_path: Path, statement: str, good: int) -> None:
    change(filled(tmp_path), statement)
    for read_only in (False, True):
        with pytest.raises(JournalError, match=f"chain breaks at event {good + 1}; event {good} is good") as error:
            Journal(tmp_path, read_only=read_only)
        assert "copy it away" in error.value.hint
        assert error.value.exit_code == 1


def test_two_events_that_change_places_are_noticed(tmp_path: Path) -> None:
    path = filled(tmp_path)
    change(
        path,
        "UPDATE events SET number = 99 WHERE number = 2",
        "UPDATE events SET number = 2 WHERE number = 3",
        "UPDATE events SET number = 3 WHERE number = 99",
    )
    with pytest.raises(JournalError, match="event 1 is good"):
        Journal(tmp_path)


@pytest.mark.parametrize("keep", [100, 5000, 9000])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    path = filled(tmp_path, 60)
    change(path)
    assert path.stat().st_size > 9000
    os.truncate(path, keep)
    with pytest.raises(JournalError, match="is damaged"):
        Journal(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"this is not a database at all" * 100)
    for read_only in (False, True):
        with pytest.raises(JournalError, match="is damaged"):
            Journal(tmp_path, read_only=read_only)


def test_a_refused_journal_is_closed_again(tmp_path: Path) -> None:
    change(filled(tmp_path), "DELETE FROM events WHERE number = 2")
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for _ in range(3):
        with pytest.raises(JournalError):
            Journal(tmp_path)
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_second_writer_is_noticed_and_the_first_one_goes_on_whole(tmp_path: Path) -> None:
    with Journal(tmp_path) as one, Journal(tmp_path) as two:
        one.append("note", {"by": 1})
        with pytest.raises(JournalError, match="another process wrote"):
            two.append("note", {"by": 2})
        one.append("note", {"by": 1})
    with Journal(tmp_path) as journal:
        assert [event.body for event in journal.events] == [{"by": 1}, {"by": 1}]


def test_a_full_disk_is_a_budget_error_and_nothing_is_lost(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append("note", {"a": 1})
        pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
        journal._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(BudgetError, match="cannot be written"):
            journal.append("note", {"a": "x" * 100_000})
        assert len(journal.events) == 1
        journal._database.execute("PRAGMA max_page_count = 100000")
        journal.append("note", {"a": 2})
    with Journal(tmp_path) as journal:
        assert [event.body["a"] for event in journal.events] == [1, 2]


# --- private records ------------------------------------------------------------------------


def test_a_private_record_is_named_by_its_content_and_kept_from_others() -> None:
    digest = put_private({"hidden": 1.25})
    assert put_private({"hidden": 1.25}) == digest
    assert put_private({"hidden": 1.26}) != digest
    assert get_private(digest) == {"hidden": 1.25}
    folder = private_root() / "scores"
    assert len(list(folder.iterdir())) == 2
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / f"{digest}.json").stat().st_mode) == 0o600


def test_a_changed_or_missing_private_record_is_refused() -> None:
    digest = put_private({"hidden": 1.25})
    path = private_root() / "scores" / f"{digest}.json"
    path.write_text(json.dumps({"hidden": 0.5}), encoding="utf-8")
    with pytest.raises(JournalError, match="was changed"):
        get_private(digest)
    path.unlink()
    with pytest.raises(JournalError, match="is missing"):
        get_private(digest)


# --- the lock -------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from slm_ar.core.agent.journal import workspace_lock
with workspace_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_workspace_until_it_dies(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(WorkspaceBusyError, match=f"process {holder.pid} on ") as error, workspace_lock(tmp_path):
            pass
        assert error.value.exit_code == 2
        holder.kill()
        holder.wait()
    with workspace_lock(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text(encoding="utf-8")


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), workspace_lock(tmp_path):
        raise RuntimeError
    with workspace_lock(tmp_path), pytest.raises(WorkspaceBusyError), workspace_lock(tmp_path):
        pass
