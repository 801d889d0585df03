"""Fetching from the hub: a small hub of our own on the loopback answers over a real socket, through `datasets`."""

from __future__ import annotations

import gzip
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from slm_ar.adapters.text import TextAdapter
from slm_ar.core.contracts import SourceOptions
from slm_ar.core.egress import Ledger
from slm_ar.core.errors import BudgetError, DataError
from slm_ar.core.hub import KNOWN, HubSource, fetch_hub, hub_facts, is_hub_source, parse_hub_source
from slm_ar.core.hub_reader import ReadError, choose_columns, describe_error, licence_of, write_rows

FIRST, SECOND = "a" * 40, "b" * 40
CARD = "---\nlicense: cdla-sharing-1.0\n---\n# A set\n"


class FakeHub(ThreadingHTTPServer):
    """The few addresses of the hub that `datasets` asks for; counts the bytes of files that it sends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sets: dict[str, dict[str, bytes]] = {}
        self.commit = FIRST
        self.gated: set[str] = set()
        self.sent_bytes = 0
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = path.removeprefix("/api").removeprefix("/datasets/").split("/")
        repo, action, rest = "/".join(parts[:2]), (parts[2:3] or ["info"])[0], parts[3:]
        files = self.server.sets.get(repo)
        if files is None:
            self._error(404, "RepoNotFound")
        elif repo in self.server.gated:
            self._error(403, "GatedRepo")
        elif rest and rest[0] not in (FIRST, SECOND, "main"):
            self._error(404, "RevisionNotFound")
        elif not path.startswith("/api/"):
            self._file(files, "/".join(rest[1:]))
        elif action in ("info", "revision"):
            self._json({"id": repo, "sha": self._commit(rest), "cardData": {"license": "cdla-sharing-1.0"}, "tags": []})
        elif action == "tree":
            self._json(_entries(files, "/".join(rest[1:])))
        elif action == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else []
            self._json([entry for name in wanted for entry in _entries(files, name)])
        else:
            self._error(404, "EntryNotFound")

    def _commit(self, rest: list[str]) -> str:
        return rest[0] if rest and rest[0] != "main" else self.server.commit

    def _error(self, status: int, code: str) -> None:
        self._send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            self._error(404, "EntryNotFound")
            return
        content, status = files[name], 200
        headers = {"ETag": f'"{len(content)}"', "X-Repo-Commit": self.server.commit, "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range", "").removeprefix("bytes="):
            first, _, last = asked.partition("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            content, status = content[int(first) : end], 206
        if self.command == "GET":
            self.server.sent_bytes += len(content)
        self._send(status, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entries(files: dict[str, bytes], below: str) -> list[dict[str, object]]:
    folder = f"{below}/" if below else ""
    found: list[dict[str, object]] = [
        {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        for name, content in files.items()
        if name == below or name.startswith(folder)
    ]
    folders = {name.rpartition("/")[0] for name in files if "/" in name}
    found += [
        {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
        for name in folders
        if name == below or name.startswith(folder)
    ]
    return found


@pytest.fixture(scope="module")
def _hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def hub(_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    _hub.sets, _hub.commit, _hub.gated, _hub.sent_bytes, _hub.requests = {}, FIRST, set(), 0, []
    monkeypatch.setenv("HF_ENDPOINT", _hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return _hub


def parquet_bytes(columns: dict[str, list[Any]], rows_per_group: int = 100) -> bytes:
    import pyarrow
    import pyarrow.parquet

    packed = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.table(columns), packed, row_group_size=rows_per_group, compression="none", use_dictionary=False
    )
    return packed.getvalue()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


@contextmanager
def listening() -> Iterator[str]:
    """An address where connections are accepted and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hub:a/b", HubSource("a/b")),
        ("hub:a/b-c.d@main:train", HubSource("a/b-c.d", "main", None, "train")),
        ("hub:a/b@refs/pr/1#small:test", HubSource("a/b", "refs/pr/1", "small", "test")),
        ("hub:a/b#wikitext-2-raw-v1", HubSource("a/b", None, "wikitext-2-raw-v1")),
    ],
)
def test_sources_are_understood(source: str, expected: HubSource) -> None:
    assert is_hub_source(source)
    assert parse_hub_source(source) == expected


@pytest.mark.parametrize(
    "source", ["hub:", "hub:imdb", "hub:../x", "hub:a/../b", "hub:a/b/c", "hub:a/b:t@r", "hub:a /b"]
)
def test_what_names_no_set_is_refused(source: str) -> None:
    with pytest.raises(DataError, match="does not name a data set on the hub\nWrite hub:OWNER/NAME"):
        parse_hub_source(source)


def test_paths_are_no_hub_sources() -> None:
    assert not any(map(is_hub_source, ("data/hub", "./hub:x", "/a/b", "C:/hub")))


# --- fetching -----------------------------------------------------------------------------------


def test_a_set_is_streamed_as_far_as_it_is_needed(hub: FakeHub, tmp_path: Path) -> None:
    stories = [f"Story {number}. " + "The cat sat on the mat. " * 40 for number in range(20_000)]
    content = parquet_bytes({"text": stories}, rows_per_group=len(stories))
    hub.sets["o/set"] = {"README.md": CARD.encode(), "data/train-00000-of-00001.parquet": content}
    said: list[str] = []
    path = fetch_hub("hub:o/set", tmp_path / "hub", 100_000, said.append)
    facts = hub_facts(path)
    assert facts is not None
    assert [row["text"] for row in rows_of(path)] == stories[: facts.row_count]
    assert 100_000 <= facts.byte_count < 102_000
    assert not facts.whole
    assert (facts.revision, facts.split, facts.licence) == (FIRST, "train", "cdla-sharing-1.0")
    assert hub.sent_bytes < len(content) / 3, "more was fetched than was needed"
    assert said[-1] == facts.line
    assert [entry.name for entry in (tmp_path / "hub").iterdir()] == [path.parent.name]
    assert {entry.name for entry in path.parent.iterdir()} == {"set.jsonl.gz", "hub.json"}


def test_what_was_fetched_is_used_again_and_keeps_its_revision(hub: FakeHub, tmp_path: Path) -> None:
    hub.sets["o/set"] = {"train.jsonl": b"".join(b'{"text": "line %d"}\n' % number for number in range(100))}
    cache = tmp_path / "hub"
    ledger = Ledger(tmp_path)
    path = fetch_hub("hub:o/set", cache, 100, print, ledger=ledger)
    before = path.read_bytes()
    (sent,) = ledger.entries()
    assert (sent.host, sent.purpose) == ("127.0.0.1", "reads the data set o/set")
    assert str(tmp_path) not in (tmp_path / "egress" / sent.digest).read_text()
    hub.commit, hub.requests = SECOND, []
    assert fetch_hub("hub:o/set", cache, 50, print, ledger=ledger) == path
    assert hub.requests == [] and len(list(ledger.entries())) == 1
    assert fetch_hub("hub:o/set", cache, 10_000, print) == path
    facts = hub_facts(path)
    assert facts is not None
    assert (facts.revision, facts.whole, facts.row_count) == (FIRST, True, 100)
    assert path.read_bytes() != before
    hub.requests = []
    fetch_hub("hub:o/set", cache, 10**9, print)
    assert hub.requests == [], "a whole split is enough for any size"
    path.write_bytes(b"damaged")
    fetch_hub("hub:o/set", cache, 100, print)
    assert path.read_bytes() == before


def test_splits_columns_and_other_kinds_of_cells(hub: FakeHub, tmp_path: Path) -> None:
    table = {"text": ["a", "b"], "n": [1, 2], "picture": [b"\0", b"\1"], "tags": [["x"], []]}
    hub.sets["o/set"] = {"data/train.parquet": parquet_bytes(table), "data/test.parquet": parquet_bytes(table)}
    path = fetch_hub("hub:o/set:test", tmp_path, 10_000, print)
    facts = hub_facts(path)
    assert facts is not None
    assert (facts.split, facts.dropped_columns, facts.licence) == ("test", ("picture",), "cdla-sharing-1.0")
    assert rows_of(path) == [{"text": "a", "n": 1, "tags": ["x"]}, {"text": "b", "n": 2, "tags": []}]
    narrow = fetch_hub("hub:o/set:test", tmp_path, 10_000, print, columns=["text"])
    assert narrow != path
    assert rows_of(narrow) == [{"text": "a"}, {"text": "b"}]
    with pytest.raises(
        DataError, match=r"has no split 'dev'; there are: (train, test|test, train)\nName one in .*:NAME"
    ):
        fetch_hub("hub:o/set:dev", tmp_path, 10_000, print)


def test_an_adapter_reads_what_was_fetched_and_no_local_folder_of_that_name(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "o" / "set").mkdir(parents=True)
    (tmp_path / "o" / "set" / "train.jsonl").write_text('{"text": "local"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    hub.sets["o/set"] = {"train.jsonl": b'{"text": "one\\ntwo"}\n{"text": "three"}\n'}
    path = fetch_hub("hub:o/set", tmp_path / "hub", 10_000, print)
    documents = list(TextAdapter().documents(path, SourceOptions()))
    assert [(document.id, document.text) for document in documents] == [
        ("set.jsonl.gz:1", "one\ntwo\n"),
        ("set.jsonl.gz:2", "three\n"),
    ]
    assert hub_facts(tmp_path / "other.jsonl") is None


def test_code_from_the_hub_is_never_run(hub: FakeHub, tmp_path: Path) -> None:
    hub.sets["o/set"] = {"set.py": b"raise SystemExit('ran')\n", "README.md": CARD.encode()}
    with pytest.raises(DataError, match="code from the hub is never run\nDownload its files"):
        fetch_hub("hub:o/set", tmp_path, 100, print)
    assert list(tmp_path.glob("unfinished-*")) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub:o/none", "hub:o/none: the hub has no such data set, or it is private"),
        ("hub:o/gated", "hub:o/gated: its owner asks you to accept terms first\nAccept them on"),
        ("hub:o/set@v9", "hub:o/set: has no revision 'v9'"),
        ("hub:o/set#big", "hub:o/set: .*'big'.*\nName one in the source: hub:o/set#NAME"),
        ("hub:o/broken", "hub:o/broken: cannot be read .*\nDownload its files"),
    ],
)
def test_what_the_hub_refuses(hub: FakeHub, tmp_path: Path, source: str, message: str) -> None:
    hub.sets["o/set"] = hub.sets["o/gated"] = {"train.jsonl": b'{"text": "a"}\n'}
    hub.sets["o/broken"] = {"train.parquet": b"PAR1 no parquet"}
    hub.gated = {"o/gated"}
    with pytest.raises(DataError, match=message):
        fetch_hub(source, tmp_path, 100, print)
    assert list(tmp_path.glob("unfinished-*")) == []


# --- no hub -------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize("repo", [*KNOWN, "any/set"])
def test_a_hub_that_cannot_be_reached(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: str) -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(DataError, match=f"the hub {endpoint} cannot be reached") as caught:
        fetch_hub(f"hub:{repo}", tmp_path, 100, print)
    file = KNOWN[repo].file if repo in KNOWN else "its files"
    assert f"Download {file}" in caught.value.hint
    assert f"https://huggingface.co/datasets/{repo}" in caught.value.hint
    assert 'source = "path/to/FILE"' in caught.value.hint


def test_a_hub_that_never_answers(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_ar.core.hub.FIRST_ANSWER_SECONDS", 1)
    with listening() as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(DataError, match=r"cannot be reached \(no answer for 1 seconds"):
            fetch_hub("hub:o/set", tmp_path, 100, print)


def test_a_machine_that_forbids_the_hub(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE.*\nUnset HF_HUB_OFFLINE\. Or: Download"):
        fetch_hub("hub:o/set", tmp_path, 100, print)
    assert hub.requests == []


def test_what_killed_fetches_left_behind_is_removed(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "unfinished-999999999-x").mkdir()
    with pytest.raises(DataError, match="no such data set"):
        fetch_hub("hub:o/set", tmp_path, 100, print)
    assert list(tmp_path.iterdir()) == []


# --- the reader, in this process ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_local_files_stream_through_the_same_code(tmp_path: Path, kind: str) -> None:
    import datasets

    rows = [{"text": f"gänse {number}", "n": number} for number in range(50)]
    file = tmp_path / f"a.{kind}"
    if kind == "parquet":
        file.write_bytes(parquet_bytes({"text": [row["text"] for row in rows], "n": [row["n"] for row in rows]}))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stream = datasets.load_dataset(
        kind, data_files=str(file), split="train", streaming=True, cache_dir=str(tmp_path / "cache")
    )
    written = write_rows(stream, tmp_path / "rows.jsonl.gz", 10_000)
    assert (written.row_count, written.whole) == (50, True)
    assert rows_of(tmp_path / "rows.jsonl.gz") == rows
    again = write_rows(rows, tmp_path / "again.jsonl.gz", 10_000)
    assert again == written
    assert (tmp_path / "again.jsonl.gz").read_bytes() == (tmp_path / "rows.jsonl.gz").read_bytes()
    some = write_rows(stream, tmp_path / "some.jsonl.gz", 30)
    assert (some.row_count, some.whole) == (4, False)


def test_columns_are_chosen_by_their_kind() -> None:
    class Kind:
        def __init__(self, dtype: str) -> None:
            self.dtype = dtype

    class Image:
        dtype = "struct"

    rows = SimpleNamespace(features={"text": Kind("string"), "photo": Image(), "raw": Kind("binary")})
    assert choose_columns(rows, []) == (("text",), ("photo", "raw"))
    assert choose_columns(rows, ["text"]) == (("text",), ())
    with pytest.raises(ReadError, match="has no column 'txt'; there are: text, photo, raw"):
        choose_columns(rows, ["txt"])
    with pytest.raises(ReadError, match="holds no text"):
        choose_columns(rows, ["photo"])
    rows.features = None
    assert choose_columns(rows, []) == ((), ())


def test_errors_get_a_word() -> None:
    full = OSError(28, "No space left on device")
    assert describe_error(full)[0] == "disk"
    assert describe_error(ConnectionError("x"))[0] == "unreachable"
    assert describe_error(RuntimeError("Dataset scripts are no longer supported, but found a.py"))[0] == "script"
    assert describe_error(KeyError())[0] == "other"
    wrapped = RuntimeError("gave up")
    wrapped.__cause__ = ConnectionRefusedError("refused")
    assert describe_error(wrapped) == ("unreachable", "gave up")


def test_a_full_disk_is_a_matter_of_budget(tmp_path: Path) -> None:
    from slm_ar.core.hub import _failure

    assert isinstance(_failure(HubSource("a/b"), "disk", str(tmp_path)), BudgetError)


def test_licences_of_cards() -> None:
    class Card:
        def __init__(self, found: object) -> None:
            self.license = found

    assert [licence_of(Card(found)) for found in ("mit", ["mit", "other"], None)] == ["mit", "mit, other", ""]
    assert licence_of(None) == ""
