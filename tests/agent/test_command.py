"""Agent programs as proposers: only what train.py has become counts, whatever else a program does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from agent_programs import GOOD, PRELUDE, files_with, make_program, transcript
from hypothesis import given
from hypothesis import strategies as st
from toys import TINY_TRAIN_PY

from slm_ar.core.agent.edits import revision_digest
from slm_ar.core.agent.proposers import errand, keeper, make_proposer
from slm_ar.core.agent.proposers.calls import Setting
from slm_ar.core.agent.proposers.command import MOST_FAILURES, CommandProposer
from slm_ar.core.agent.proposers.spending import Transcript
from slm_ar.core.contracts import PastExperiment, Proposal, ResearchContext, Status
from slm_ar.core.egress import Ledger
from slm_ar.core.errors import ProposerError, UsageError
from slm_ar.core.recipe import ProposerTable

CANARY = "sk-ant-canary-0123456789-secret"
CONTEXT = ResearchContext(
    "make it good", TINY_TRAIN_PY, revision_digest(TINY_TRAIN_PY), (), {"device": "cpu"}, {"seconds": 5.0}, 0, 0.01
)
Make = Callable[..., CommandProposer]
AWAY = 'os.rename(here, here + "-2"); os.mkdir(here); import shutil; shutil.rmtree(here + "-2")'


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / ".slm").mkdir(parents=True)
    return folder


@pytest.fixture
def make(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A proposer whose program runs the given body."""

    def made(body: str, told: list[str] | None = None, stop_at: float | None = None, **keys: Any) -> CommandProposer:
        make_program(tmp_path / "bin", body)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        table = ProposerTable.model_validate({"name": "cli:agent", "command": ["agent", "{prompt}"], **keys})
        lines: list[str] = [] if told is None else told
        proposer = make_proposer("cli:agent", Setting(table, work / ".slm", "toy", lines.append, stop_at))
        assert isinstance(proposer, CommandProposer)
        return proposer

    return made


def proposed(proposer: CommandProposer, context: ResearchContext = CONTEXT) -> Proposal:
    found = proposer.propose(context)
    assert found is not None
    return found


# --- good edits -----------------------------------------------------------------------------


def test_an_edit_of_train_py_is_a_proposal(make: Make, work: Path) -> None:
    proposer = make(f'{GOOD}open("notes.txt", "w").write("x")\nprint(os.getcwd(), sorted(os.listdir(".")))')
    proposal = proposed(proposer)
    assert proposal.train_py == TINY_TRAIN_PY.replace("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04 ")
    assert (proposal.hypothesis, proposal.unusable) == ("double the rate", "")
    sent = [entry.digest for entry in Ledger(work / ".slm").entries()]
    assert sent and sorted(path.name for path in work.rglob("*") if path.is_file()) == sorted(
        [*sent, "egress.jsonl", "proposer.jsonl"]
    )
    (call,) = transcript(work)
    said = call["content"][0]["text"]
    assert "['history.md', 'notes.txt', 'program.md', 'train.py']" in said and "+MATRIX_LR = 0.04" in call["diff"]
    scratch = Path(said.splitlines()[-1].split(" [")[0])
    assert scratch.is_absolute() and not scratch.exists() and not scratch.is_relative_to(work)
    assert Transcript(work / ".slm").spent("toy").calls == 0, "it tells no tokens, and none are counted as 0"
    assert "1 call in this campaign" in proposer.closing_line and "600 s" not in proposer.opening_line


def test_what_is_handed_over_is_in_the_ledger(make: Make, work: Path) -> None:
    past = PastExperiment(1, "a", "b", "human", "an idea", Status.CRASHED, None, {}, "t", "KeyError: 'Mrs Miller'")
    body = 'print(sys.argv[1], open("program.md").read(), open("history.md").read())\n' + GOOD
    proposed(make(body), replace(CONTEXT, history=(past,)))
    (sent,) = Ledger(work / ".slm").entries()
    handed = json.loads((work / ".slm" / "egress" / sent.digest).read_text(encoding="utf-8"))
    assert sorted(handed["files"]) == ["history.md", "program.md", "train.py"] and sent.host == "the program agent"
    said = transcript(work)[0]["content"][0]["text"]
    for words in ("HYPOTHESIS:", "make it good", '"hypothesis": "an idea"', '"reason": "KeyError"'):
        assert words in said and words in json.dumps(handed, ensure_ascii=False).replace('\\"', '"')
    assert "Mrs Miller" not in said


@pytest.mark.parametrize(
    ("words", "hypothesis"),
    [
        ('print("**HYPOTHESIS:** first\\n> hypothesis: the last one \\x1b[31mcounts\\x07")', "the last one counts"),
        ('open("hypothesis.txt", "w").write("\\n from the file\\nmore")', "from the file"),
        (
            'open("hypothesis.txt", "wb").write(b"\\xff\\xfe")',
            "2 changed lines (+0 of code), such as: MATRIX_LR = 0.04",
        ),
        ('os.mkfifo("hypothesis.txt")', "2 changed lines (+0 of code), such as: MATRIX_LR = 0.04"),
        ('print("HYPOTHESIS: " + "x" * 5000)', f"{'x' * 297}..."),
    ],
)
def test_the_hypothesis_is_found_and_made_harmless(make: Make, words: str, hypothesis: str) -> None:
    proposal = proposed(make(f'edit("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04 ")\n{words}\n'))
    assert proposal.hypothesis.startswith(hypothesis) and proposal.hypothesis.isprintable()
    assert len(proposal.hypothesis) <= 300


def test_a_failing_exit_code_is_noted_and_the_edit_counts(make: Make) -> None:
    proposal = proposed(make(f"{GOOD}sys.exit(7)"))
    assert not proposal.unusable and "exit code 7" in proposal.rationale


def test_the_task_may_come_on_standard_input(make: Make, work: Path) -> None:
    assert not proposed(make(f"print(sys.stdin.read(), sys.argv)\n{GOOD}", command=["agent", "-x"])).unusable
    said = transcript(work)[0]["content"][0]["text"]
    assert "You improve the training code" in said and "'-x']" in said


def test_a_broken_edit_may_be_mended_once_with_the_reason(make: Make, work: Path) -> None:
    body = f"""
if "cannot be used" in sys.argv[1]:
    assert "train.py line" in sys.argv[1]
    edit("MATRIX_LR = (", "MATRIX_LR = 0.04 ")
    print("HYPOTHESIS: mended")
else:
    edit("MATRIX_LR = 0.02 ", "MATRIX_LR = (")
{""}"""
    proposal = proposed(make(body))
    assert (proposal.hypothesis, proposal.unusable) == ("mended", "") and len(transcript(work)) == 2


def test_a_long_reason_is_cut(make: Make, work: Path) -> None:
    proposed(make('print(len(sys.argv[1]))\nedit("MATRIX_LR = 0.02 ", "MATRIX_LR = " + repr("\\1" * 5000) + " ")'))
    first, second = (int(call["content"][0]["text"].split()[0]) for call in transcript(work))
    assert first < second < first + 2200


# --- edits that are none --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("pass", "left train.py as it was"),
        ("sys.exit(3)", "left train.py as it was (exit code 3)"),
        ('input("Overwrite? ")', "left train.py as it was (exit code 1)"),
        ('edit("MATRIX_LR = 0.02 ", "MATRIX_LR = (")', "was never closed"),
        ('edit("def main", "def mian")', "defines no function main"),
        ('open("train.py", "w").close()', "defines no function build_model"),
        ('open("train.py", "a").write("\\nimport os\\nos.system(\'true\')\\n")', "runs when the file is imported"),
        ('os.remove("train.py")', "train.py is gone"),
        ('os.remove("train.py"); os.mkfifo("train.py")', "not a regular file"),
        ('os.remove("train.py"); os.mkdir("train.py")', "not a regular file"),
        ('os.remove("train.py"); os.symlink("program.md", "train.py")', "train.py is a link"),
        ('open("train.py", "wb").write(b"\\x00\\xff\\xfe")', "not UTF-8 text"),
        ('open("train.py", "w").write("#" * 10_000_000)', "10,000,000 bytes"),
        ('import shutil; shutil.rmtree(os.getcwd())', "gone"),
        (f"here = os.getcwd(); {AWAY}", "its folder is gone"),
    ],
)  # fmt: skip
def test_what_is_no_edit_is_skipped_with_the_reason(make: Make, body: str, reason: str) -> None:
    proposal = proposed(make(body))
    assert reason in proposal.unusable and proposal.train_py == TINY_TRAIN_PY, proposal.unusable


def test_a_link_to_a_private_file_shows_nothing_of_it(make: Make, work: Path, tmp_path: Path) -> None:
    private = tmp_path / "private.py"
    private.write_text(TINY_TRAIN_PY.replace("Made for tests", "Mrs Miller"), encoding="utf-8")
    proposal = proposed(make(f'os.remove("train.py"); os.symlink({str(private)!r}, "train.py")'))
    assert "link" in proposal.unusable and not files_with(work, "Mrs Miller")


def test_files_elsewhere_do_not_count(make: Make) -> None:
    body = 'os.mkdir("sub"); open("sub/train.py", "w").write("x"); os.chdir("sub"); edit("x", "y")'
    assert "as it was" in proposed(make(body)).unusable


@pytest.mark.parametrize(
    "body",
    [
        "os.chmod('.', 0)",
        "os.makedirs('a/b'); open('a/b/c', 'w').close(); os.chmod('a/b', 0); os.chmod('a', 0)",
        "for _ in range(1500): os.mkdir('d'); os.chdir('d')",
        "here = os.getcwd(); os.remove('train.py'); os.rename(here, OUT); os.symlink(OUT, here)",
        "here = os.getcwd(); os.rename(here, OUT); open(here, 'w').close()",
        "os.symlink(OUT, 'link'); os.mkdir(OUT); open(OUT + '/kept', 'w').close()",
    ],
)  # fmt: skip
def test_whatever_becomes_of_the_folder_it_is_removed(
    make: Make, tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, out = tmp_path / "places", tmp_path / "out"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    assert proposed(make(f"OUT = {str(out)!r}\n{body}\n")).unusable
    assert not list(place.iterdir()) and out.exists() == ("OUT" in body)
    assert (out / "kept").exists() == ("kept" in body), "a link is removed, not what it names"


@pytest.mark.parametrize("is_parent", [False, True])
def test_a_repetition_is_refused(make: Make, is_parent: bool) -> None:
    text = TINY_TRAIN_PY.replace("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04 ")
    revisions = ("b", revision_digest(text)) if is_parent else (revision_digest(text), "b")
    past = PastExperiment(4, *revisions, "search", "h", Status.REVERTED, 2.0, {}, "t")
    proposal = proposed(make(f'if "cannot be used" not in sys.argv[1]:\n    {GOOD.splitlines()[0]}\n'), replace(
        CONTEXT, history=(past,)))  # fmt: skip
    assert "was there before, in or before experiment 4" in proposal.unusable


# --- processes ------------------------------------------------------------------------------


def left_behind(*pids: int) -> list[int]:
    alive = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return [process.pid for process in psutil.wait_procs(alive, timeout=60)[1]]


def test_a_program_that_hangs_is_ended(make: Make, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    proposal = proposed(make(f"open({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)", agent_seconds=2))
    assert "not ready within 2 s" in proposal.unusable
    assert not pid.exists() or not left_behind(int(pid.read_text()))


DAEMON = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        os.closerange(0, 3) if {closes} else None
        open({pid!r} + ".part", "w").write(str(os.getpid()))
        os.rename({pid!r} + ".part", {pid!r})
        time.sleep(600)
    os._exit(0)
while not os.path.exists({pid!r}):
    time.sleep(0.01)
"""


@pytest.mark.parametrize("closes", [True, False])
def test_no_daemon_survives(make: Make, tmp_path: Path, closes: bool) -> None:
    pid = tmp_path / "pid"
    proposal = proposed(make(f"{DAEMON.format(pid=str(pid), closes=closes)}{GOOD}"))
    assert not proposal.unusable and proposal.hypothesis == "double the rate"
    assert not psutil.pid_exists(int(pid.read_text()))


def test_ctrl_c_ends_the_program_too(make: Make, tmp_path: Path, work: Path) -> None:
    pid = tmp_path / "pid"
    body = f"""{DAEMON.format(pid=str(pid), closes=False)}
os.kill({os.getpid()}, signal.SIGINT)
time.sleep(600)
"""
    with pytest.raises(KeyboardInterrupt):
        make(body).propose(CONTEXT)
    assert not psutil.pid_exists(int(pid.read_text()))
    calls = list(make(GOOD)._transcript.calls())
    assert len(calls) == 1 and calls[0].is_open


def test_nothing_survives_the_death_of_the_harness(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = make_program(tmp_path / "bin", f"{DAEMON.format(pid=str(pid), closes=True)}time.sleep(600)")
    code = (
        "import os; from pathlib import Path; from slm_ar.core.agent.proposers.errand import run_errand\n"
        f"folder = Path({str(tmp_path)!r}) / 'scratch'; folder.mkdir()\n"
        f"run_errand([{str(program)!r}], dict(os.environ), folder, {{}}, (), '', 600)"
    )
    harness = subprocess.Popen([sys.executable, "-c", code])
    try:
        limit = time.monotonic() + 60
        while not pid.exists() and time.monotonic() < limit:
            time.sleep(0.02)
        below = [process.pid for process in psutil.Process(harness.pid).children(recursive=True)]
    finally:
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    assert len(below) >= 2 and not left_behind(int(pid.read_text()), *below)
    assert not (tmp_path / "scratch").exists()


def test_without_its_keeper_a_program_is_ended_too(make: Make, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    body = f"open({str(pid)!r}, 'w').write(str(os.getpid()))\nos.kill(os.getppid(), 9)\ntime.sleep(600)"
    with pytest.raises(ProposerError, match="was killed, and the program with it"):
        make(body).propose(CONTEXT)
    assert not left_behind(int(pid.read_text()))


def test_where_no_daemon_comes_back_it_is_known_by_its_mark(tmp_path: Path) -> None:
    """macOS has no subreapers; here the keeper is told that this is macOS."""
    pid = tmp_path / "pid"
    program = make_program(tmp_path / "bin", DAEMON.format(pid=str(pid), closes=True))
    code = (
        "import os, psutil, sys; from slm_ar.core.agent.proposers import keeper\n"
        "sys.platform = 'darwin'; control, held = os.pipe(); heard, told = os.pipe()\n"
        f"keeper.main(control, told, [{str(program)!r}]); print(os.read(heard, 1000).decode())"
    )
    environment = {**os.environ, keeper.MARK: str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"code": 0} and not left_behind(int(pid.read_text()))


# --- words and keys -------------------------------------------------------------------------


def test_a_flood_of_words_is_cut(make: Make, work: Path) -> None:
    proposal = proposed(make(f'print("begin" + "x" * 3_000_000)\n{GOOD}'))
    assert proposal.hypothesis == "double the rate"
    said = transcript(work)[0]["content"][0]["text"]
    assert said.startswith("beginxxx") and "bytes left out]" in said and len(said) < errand.MOST_KEPT_OUTPUT + 100


# Anywhere, and where what is kept of 200,095 bytes is cut: behind its first 16,000 and before its last 48,000.
@given(
    st.one_of(st.integers(0, 200_000), st.integers(15_900, 16_010), st.integers(151_990, 152_100)),
    st.integers(1, 70_000),
    st.booleans(),
)
def test_no_part_of_a_key_stands_at_the_cut(before: int, chunk: int, is_known_by_its_looks: bool) -> None:
    words = errand._Words()
    key = CANARY if is_known_by_its_looks else "correct-horse-battery-staple-ok"
    said = b"x" * before + b" " + key.encode() * 3 + b" " + b"y" * (200_000 - before)
    for start in range(0, len(said), chunk):
        words.add(said[start : start + chunk])
    kept = words.plain([] if is_known_by_its_looks else [key])
    assert not [part for part in ("canary", "-secret", "corre", "le-ok") if part in kept]
    assert len(kept) <= errand.MOST_KEPT_OUTPUT + 100


def test_a_flood_without_end_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errand, "MOST_OUTPUT", 2_000_000)
    assert "wrote more than 2 MB" in proposed(make('while True: print("x" * 1000)')).unusable


def test_what_a_program_may_see_of_the_environment(
    make: Make, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {"ANTHROPIC_API_KEY": CANARY, "OPENAI_API_KEY": CANARY, "HF_TOKEN": CANARY, "SLM_AR_LOCAL_KEY": CANARY}
    paths = {"XDG_CACHE_HOME": str(work / "cache"), "CODEX_HOME": f"{os.environ['SLM_AR_PRIVATE']}/x"}
    for name, value in {**secret, **paths, "MY_SETTING": "mine", "OTHER": "no", "LC_CTYPE": "C.UTF-8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{work / 'bin'}{os.pathsep}{os.environ['PATH']}")
    seen = tmp_path / "seen.json"
    proposed(make(f"{GOOD}json.dump(dict(os.environ), open({str(seen)!r}, 'w'))", pass_environment=["MY_SETTING"]))
    found = json.loads(seen.read_text(encoding="utf-8"))
    assert found["MY_SETTING"] == "mine" and found["HOME"] == os.environ["HOME"] and found["TERM"] == "dumb"
    assert not {*secret, *paths, "OTHER"} & found.keys() and not [name for name in found if name.startswith("SLM_AR")]
    everything = json.dumps(found)
    assert CANARY not in everything and str(work) not in everything and os.environ["SLM_AR_PRIVATE"] not in everything


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed in /proc")
def test_a_program_inherits_no_open_file(make: Make, work: Path) -> None:
    secret = (work / "secret").open("w", encoding="utf-8")
    os.set_inheritable(secret.fileno(), True)
    with secret:
        proposed(make('print("open:", sorted(map(int, os.listdir("/proc/self/fd")))[:-1])'))
    assert "open: [0, 1, 2]" in transcript(work)[0]["content"][0]["text"]


def test_a_key_that_is_handed_over_is_kept_nowhere(make: Make, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    key = 'os.environ["ANTHROPIC_API_KEY"]'
    passed = {"pass_environment": ["ANTHROPIC_API_KEY"]}
    proposal = proposed(make(f"{GOOD}print(f'HYPOTHESIS: {{{key}}} sk-other-0123456789')", **passed))
    assert proposal.hypothesis == "[key] [key]"
    written = proposed(make(f"{GOOD.splitlines()[0]}\nopen('hypothesis.txt', 'w').write({key})", **passed))
    assert written.hypothesis == "[key]"
    unusable = proposed(make(f'edit("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04  # " + {key} + " ")', **passed))
    assert "holds a key" in unusable.unusable
    assert len(transcript(work)) == 3, "what holds a key is not handed over again to be mended"
    assert not files_with(work, CANARY)


def test_a_value_that_the_code_holds_anyway_is_no_key(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SETTING", "MATRIX_LR")
    assert not proposed(make(GOOD, pass_environment=["MY_SETTING"])).unusable


# --- limits ---------------------------------------------------------------------------------


def test_a_program_that_only_fails_is_given_up(make: Make) -> None:
    proposer = make('print("please log in", file=sys.stderr); sys.exit(4)')
    for _ in range(MOST_FAILURES - 1):
        assert "exit code 4" in proposed(proposer).unusable
    with pytest.raises(ProposerError, match=r"3 times in a row.*exit code 4.*please log in") as failure:
        proposer.propose(CONTEXT)
    assert "by hand" in failure.value.hint


def test_a_program_that_only_hangs_is_given_up(make: Make) -> None:
    proposer = make("time.sleep(600)", agent_seconds=0.1)
    for _ in range(MOST_FAILURES - 1):
        assert "not ready within" in proposed(proposer).unusable
    with pytest.raises(ProposerError, match=r"3 times in a row.*not ready within"):
        proposer.propose(CONTEXT)


def test_an_edit_in_between_starts_the_count_anew(make: Make, tmp_path: Path) -> None:
    proposer = make("sys.exit(4)")
    for _ in range(3):
        for _ in range(MOST_FAILURES - 1):
            make_program(tmp_path / "bin", "sys.exit(4)")
            assert proposed(proposer).unusable
        make_program(tmp_path / "bin", GOOD)
        assert not proposed(proposer).unusable


def test_the_end_of_the_night_ends_the_program(make: Make) -> None:
    told: list[str] = []
    proposer = make("time.sleep(600)", told, stop_at=time.monotonic())
    assert proposer.propose(CONTEXT) is None and "the time is up" in told[0]


def test_what_is_ready_before_the_end_of_the_night_counts(make: Make) -> None:
    assert not proposed(make(GOOD, stop_at=time.monotonic() + 500, agent_seconds=900)).unusable


def test_a_program_that_cannot_be_started(make: Make, tmp_path: Path) -> None:
    proposer = make(GOOD)
    (tmp_path / "bin" / "agent").write_text("#!/nowhere/python\n", encoding="utf-8")
    with pytest.raises(ProposerError, match="cannot be started: No such file"):
        proposer.propose(CONTEXT)


def test_a_place_in_the_workspace_is_refused_before_the_night(
    make: Make, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(work / "tmp"))
    with pytest.raises(UsageError, match="lies in the workspace"):
        make(GOOD)


def test_a_cap_in_dollars_could_not_hold(make: Make, work: Path) -> None:
    table = ProposerTable(name="cli:agent", command=(sys.executable,))
    with pytest.raises(UsageError, match="--budget-usd could not hold"):
        make_proposer("cli:agent", Setting(table, work / ".slm", "toy", night_usd=1.0))


def test_a_long_program_md_is_refused(make: Make) -> None:
    with pytest.raises(ProposerError, match=r"program\.md has 60,001 characters"):
        make(GOOD).propose(replace(CONTEXT, program="x" * 60_001))


def test_the_stand_in_is_a_program() -> None:
    compile(PRELUDE, "prelude", "exec")
