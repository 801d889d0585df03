"""What candidate code leaves where a file is expected: pipes, links, folders, floods, keys. None hangs, none leaks."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from test_executor import GOOD_MAIN, outcome_of
from toys import TINY_TRAIN_PY, with_main

from slm_ar.core.contracts import Status, TrainOutcome
from slm_ar.core.train import logits_client
from slm_ar.core.train.checkpoint import InvalidCheckpointError
from slm_ar.core.train.executor import LocalExecutor, window_context
from slm_ar.core.train.files import CONFIG_BYTES, LOG_TAIL_BYTES, log_tail, read_candidate_file, read_config

T = TypeVar("T")
SECRET = "the diary of the person at the keyboard\n"


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises; a hang is a failure and not the end of the session."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"no answer within {seconds} s"
    if errors:
        raise errors[0]
    return answers[0]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


# --- read_candidate_file --------------------------------------------------------------------


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    assert read_candidate_file(tmp_path / "file", 10) == b"0123456789"
    assert read_candidate_file(tmp_path / "file", 11, from_end=True) == b"0123456789"
    (tmp_path / "empty").touch()
    assert read_candidate_file(tmp_path / "empty", 10) == b""


def test_a_larger_file_is_refused_unless_its_end_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with pytest.raises(OSError, match="file has 10 bytes, at most 9 are read"):
        read_candidate_file(tmp_path / "file", 9)
    assert read_candidate_file(tmp_path / "file", 4, from_end=True) == b"6789"


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    (path.parent / "secret").write_text(SECRET, encoding="utf-8")
    path.symlink_to("secret")


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_device_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    "make", [make_fifo, make_link, make_dangling_link, make_folder, make_device_link, make_nothing]
)
@pytest.mark.parametrize("from_end", [False, True])
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], from_end: bool
) -> None:
    make(tmp_path / "file")
    with pytest.raises(OSError):
        within(5, lambda: read_candidate_file(tmp_path / "file", 1000, from_end))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("make", [make_fifo, make_link, make_folder, make_nothing])
def test_a_refused_file_is_closed_again(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A campaign reads thousands of logs in one process."""
    make(tmp_path / "file")
    before = open_files()
    for _ in range(20):
        with pytest.raises(OSError):
            read_candidate_file(tmp_path / "file", 1000)
    assert open_files() <= before


# --- read_config ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'"text"',
        b"3",
        b"null",
        b"{",
        b"\xff\xfe\xff",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"context": ' + b"9" * 10_000 + b"}",
        b'{"a": "' + b"x" * CONFIG_BYTES + b'"}',
    ],
    ids=[
        "empty", "list", "string", "number", "null", "cut", "bytes", "deep list", "deep object", "digits", "large",
    ],
)  # fmt: skip
def test_a_config_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        read_config(tmp_path / "config.json")
    assert window_context(tmp_path, 77) == 77


@pytest.mark.parametrize("make", [make_fifo, make_link, make_folder])
def test_a_config_that_is_no_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "config.json")
    with pytest.raises(OSError):
        within(5, lambda: read_config(tmp_path / "config.json"))
    assert within(5, lambda: window_context(tmp_path, 77)) == 77


def test_a_config_just_below_the_cap_is_read(tmp_path: Path) -> None:
    facts = {"context": 16, "note": "x" * (CONFIG_BYTES - 100)}
    (tmp_path / "config.json").write_text(json.dumps(facts), encoding="utf-8")
    assert read_config(tmp_path / "config.json") == facts
    assert window_context(tmp_path, 77) == 16


# --- log_tail -------------------------------------------------------------------------------


def test_the_tail_of_a_log_cannot_move_a_terminal(tmp_path: Path) -> None:
    noise = "\x1b[2J\x1b]0;title\x07\x9b31m\r\x00\u202egnp.exe\u200b\u2066\x7f"
    (tmp_path / "log.txt").write_text(f"first\n{noise}last\n", encoding="utf-8")
    tail = log_tail(tmp_path)
    assert tail.startswith("first\n")
    assert tail.endswith("last\n")
    assert all(character == "\n" or character.isprintable() for character in tail)


@pytest.mark.parametrize("make", [make_fifo, make_link, make_dangling_link, make_folder, make_device_link])
def test_a_log_that_is_no_regular_file_is_no_log(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "log.txt")
    assert within(5, lambda: log_tail(tmp_path)) == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MY_PROVIDER_API_KEY", "plain-words-as-a-key"),
        ("GITHUB_TOKEN", "abcdefgh12345678"),
        ("db_password", "correct horse battery"),
    ],
)
def test_the_value_of_a_secret_variable_is_blotted_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    coloured = value[:4] + "\x1b" + value[4:]
    (tmp_path / "log.txt").write_text(f"it is {value}, really {coloured}!\n", encoding="utf-8")
    assert log_tail(tmp_path) == "it is [key], really [key]!\n"


def test_of_two_secrets_the_longer_one_leaves_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_API_KEY", "abcdefgh")
    monkeypatch.setenv("B_API_KEY", "abcdefgh-and-more")
    (tmp_path / "log.txt").write_text("abcdefgh-and-more\n", encoding="utf-8")
    assert "and-more" not in log_tail(tmp_path)


@pytest.mark.parametrize(
    "key", ["sk-ant-api03-AbCd_1234-xyz", "hf_AbCdEfGh12", "ghp_0123456789abc", "xoxb-123-456-abc"]
)
def test_what_looks_like_a_key_is_blotted_out(tmp_path: Path, key: str) -> None:
    (tmp_path / "log.txt").write_text(f"key={key} 'Bearer {key}'\n", encoding="utf-8")
    assert log_tail(tmp_path) == "key=[key] 'Bearer [key]'\n"


def test_a_key_that_the_cut_divides_leaves_no_rest(tmp_path: Path) -> None:
    """The tail begins in the middle of the key: what is left of it has no prefix to be known by."""
    (tmp_path / "log.txt").write_text("sk-ant-SECRETPART" + "\n" + "x" * (LOG_TAIL_BYTES - 8), encoding="utf-8")
    assert "RETPART" not in log_tail(tmp_path)


def test_ordinary_words_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT_KEY", "loss")
    (tmp_path / "log.txt").write_text("loss 2.31, task-specific, risk-free, disk-usage\n", encoding="utf-8")
    assert log_tail(tmp_path) == "loss 2.31, task-specific, risk-free, disk-usage\n"


# --- whole runs -----------------------------------------------------------------------------


def test_a_run_that_rewrites_its_own_code_is_scored_with_the_original(executor: LocalExecutor, tmp_path: Path) -> None:
    """The rewritten one would answer with other logits, and it is not the code that the journal knows."""
    assert outcome_of(executor, tmp_path, TINY_TRAIN_PY).status is None
    honest = executor.score(tmp_path / "run", "dev", 32).bits_per_byte
    rewrite = "import pathlib\npathlib.Path('train.py').write_text('raise ValueError(\"another code\")')\n"
    code = with_main(rewrite + GOOD_MAIN)
    assert outcome_of(executor, tmp_path, code).status is None
    assert (tmp_path / "run" / "train.py").read_text(encoding="utf-8") == code
    assert executor.score(tmp_path / "run", "dev", 32).bits_per_byte == honest


@pytest.mark.parametrize(
    "replaced",
    [
        "os.unlink('train.py')",
        "os.unlink('train.py')\nos.mkdir('train.py')\nos.mkdir('train.py/inside')",
        "os.unlink('train.py')\nos.mkfifo('train.py')",
        "open('other', 'w').close()\nos.unlink('train.py')\nos.symlink('other', 'train.py')",
        "open('tokenizer.json', 'w').write('{}')",
        "os.symlink('/dev/full', 'tokenizer.json')",
    ],
)
def test_whatever_stands_in_place_of_our_files_is_replaced(
    executor: LocalExecutor, tmp_path: Path, replaced: str
) -> None:
    code = with_main(f"{GOOD_MAIN}\nimport os\n{replaced}")
    outcome = outcome_of(executor, tmp_path, code)
    assert outcome.status is None, outcome
    folder = tmp_path / "run"
    assert not (folder / "train.py").is_symlink()
    assert (folder / "train.py").read_text(encoding="utf-8") == code
    assert (folder / "tokenizer.json").read_bytes() == (executor.data.folder / "tokenizer.json").read_bytes()
    if (folder / "other").exists():
        assert (folder / "other").read_text(encoding="utf-8") == "", "nothing is written through a link"
    assert executor.score(folder, "dev", 32).bits_per_byte > 1


GONE = {
    "deleted": "shutil.rmtree(here)",
    "a file": "shutil.rmtree(here)\nopen(here, 'w').close()",
    "a link": "shutil.rmtree(here)\nos.symlink(os.path.dirname(here) + '/elsewhere', here)",
}


@pytest.mark.parametrize("after", ["", GOOD_MAIN + "\n"], ids=["at once", "after the checkpoint"])
@pytest.mark.parametrize("how", [*GONE])
def test_a_run_that_takes_its_folder_away_has_an_outcome(
    executor: LocalExecutor, tmp_path: Path, how: str, after: str
) -> None:
    """A candidate's mischief is the candidate's failure; it must not end the campaign."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "train.py").write_text("mine\n", encoding="utf-8")
    main = f"{after}import os, shutil\nhere = os.getcwd()\n{GONE[how]}"
    outcome = outcome_of(executor, tmp_path, with_main(main))
    assert outcome.status in (Status.CRASHED, Status.INVALID)
    assert (tmp_path / "elsewhere" / "train.py").read_text(encoding="utf-8") == "mine\n"
    assert outcome_of(executor, tmp_path, TINY_TRAIN_PY).status is None, "the folder can be used again"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("sys.exit('the corpus is too small for this width')", "the corpus is too small for this width"),
        ("raise SystemExit('width 3\\nis odd')", "is odd"),
        ("sys.exit(['a', 'list'])", "['a', 'list']"),
        ("sys.exit(3)", "exit code 3"),
        ("sys.exit(2 ** 40)", ""),
        ("sys.exit('my key is sk-ant-abcdefghijkl')", "my key is [key]"),
    ],
)
def test_the_reason_of_an_exit_is_told(executor: LocalExecutor, tmp_path: Path, call: str, reason: str) -> None:
    outcome = outcome_of(executor, tmp_path, with_main(f"import sys\n{call}"))
    assert outcome.status is Status.CRASHED
    assert outcome.reason
    assert reason in outcome.reason
    assert "sk-ant" not in outcome.reason + outcome.log_tail


@pytest.mark.parametrize("call", ["sys.exit()", "sys.exit(0)", "sys.exit(None)"])
def test_a_quiet_exit_after_the_checkpoint_is_a_success(executor: LocalExecutor, tmp_path: Path, call: str) -> None:
    assert outcome_of(executor, tmp_path, with_main(f"{GOOD_MAIN}\nimport sys\n{call}")).status is None


LOGS = {
    "pipe": "os.mkfifo('log.txt')",
    "link": "os.symlink({secret!r}, 'log.txt')",
    "folder": "os.mkdir('log.txt')",
    "device": "os.symlink('/dev/zero', 'log.txt')",
    "nothing": "pass",
}


def with_log(tmp_path: Path, kind: str, then: str) -> str:
    """A train.py that puts something in the place of its log, which lies out of its reach, and goes on with `then`."""
    replacing = LOGS[kind].format(secret=str(tmp_path / "secret"))
    return with_main(f"import os\nassert not os.path.lexists('log.txt')\n{replacing}\n{then}")


@pytest.mark.parametrize("kind", [*LOGS])
def test_a_crash_behind_a_replaced_log_neither_hangs_nor_leaks(
    executor: LocalExecutor, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    code = with_log(tmp_path, kind, "raise ValueError('no luck')")
    outcome: TrainOutcome = within(60, lambda: outcome_of(executor, tmp_path, code))
    assert outcome.status is Status.CRASHED
    assert "ValueError: no luck" in outcome.log_tail  # what it printed, not what it left there
    assert "diary" not in repr(outcome)
    assert (tmp_path / "secret").read_text(encoding="utf-8") == SECRET


@pytest.mark.parametrize("kind", [*LOGS])
def test_a_checkpoint_behind_a_replaced_log_is_scored_without_hanging(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The process that answers with logits writes into the same log, and must not write through a link."""
    monkeypatch.setattr(logits_client, "LOAD_SECONDS", 60)
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    code = with_log(tmp_path, kind, GOOD_MAIN)
    code = code.replace("def build_model(config):\n", "def build_model(config):\n    print('hello', flush=True)\n")
    outcome = within(60, lambda: outcome_of(executor, tmp_path, code))
    assert outcome.status is None
    assert "diary" not in repr(outcome)
    score = within(60, lambda: executor.score(tmp_path / "run", "dev", 32))
    assert score.bits_per_byte > 1
    assert (tmp_path / "secret").read_text(encoding="utf-8") == SECRET


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_model_that_fails_behind_a_replaced_log_is_invalid_without_a_leak(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(logits_client, "LOAD_SECONDS", 60)
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    fails = "import os\n    if not os.environ.get('SLM_AR_CONTROL'): raise ValueError('only in training')\n"
    code = with_log(tmp_path, kind, GOOD_MAIN).replace(
        "def build_model(config):\n", f"def build_model(config):\n    {fails}"
    )
    within(60, lambda: outcome_of(executor, tmp_path, code))
    with pytest.raises(InvalidCheckpointError) as error:
        within(45, lambda: executor.score(tmp_path / "run", "dev", 32))
    assert "diary" not in str(error.value)
