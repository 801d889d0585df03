"""Hostile train.py under each sandbox of this machine, through the real executor: what it reaches is nothing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from toys import TINY_TRAIN_PY, with_main

from slm_ar.core.contracts import Status, TrainOutcome
from slm_ar.core.errors import TrainingError
from slm_ar.core.prepare.heldout import ensure_private, private_root
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.train import process as process_module
from slm_ar.core.train.device import Machine
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.process import candidate_environment
from slm_ar.core.train.sandbox import choice, plans
from slm_ar.core.train.sandbox.canaries import ALWAYS, BY_LEVEL, Proof
from slm_ar.core.train.sandbox.choice import NoSandboxError, Sandboxes
from slm_ar.core.train.training_run import TrainJob

WORKS = TINY_TRAIN_PY.partition("def main():\n")[2].partition("\n\nif __name__")[0]
GOOD_MAIN = "\n".join(line.removeprefix("    ") for line in WORKS.split("\n"))
LEVELS = (plans.BUBBLEWRAP, plans.LANDLOCK)
CANARY = "sk-canary-0123456789abcdef"

ONLY: Callable[[plans.Plan], list[tuple[plans.Plan, str]]] = lambda plan: [(plan, ""), (plans.NONE, "")]  # noqa: E731


@pytest.fixture(scope="module", params=LEVELS, ids=lambda plan: plan.name.split()[0])
def walled(
    request: pytest.FixtureRequest,
    machine: Machine,
    tiny_data: PreparedData,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalExecutor]:
    """An executor under one sandbox; started with a key in the environment, which nobody may ever see again."""
    here = dict(plans.plans_here())
    if here[request.param]:
        pytest.skip(here[request.param])
    patch = pytest.MonkeyPatch()
    patch.setattr(choice, "plans_here", lambda: ONLY(request.param))
    patch.setenv("ANTHROPIC_API_KEY", CANARY)
    patch.setenv("SLM_AR_PRIVATE", str(tmp_path_factory.mktemp("walled") / "private"))
    try:
        with LocalExecutor(machine, tiny_data) as executor:
            try:
                isolation = executor.isolation(tmp_path_factory.mktemp("runs"))
            except NoSandboxError as error:
                pytest.skip(error.message)
            assert isolation.level == request.param.level
            yield executor
    finally:
        patch.undo()


@pytest.fixture
def all_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole ladder again, also while `walled` lives."""
    monkeypatch.setattr(choice, "plans_here", plans.plans_here)


def outcome_of(executor: LocalExecutor, folder: Path, main: str, memory_mb: float = 4000) -> TrainOutcome:
    run = executor.submit(TrainJob(with_main(main), 0, None, 6, 30.0, memory_mb), folder / "run")
    while (outcome := run.poll()) is None:
        pass
    return outcome


def told_by(executor: LocalExecutor, folder: Path, attempt: str) -> list[object]:
    """What `attempt` (an expression) gave inside: [True, value] or [False, exception]."""
    main = (
        "import json, os, pathlib, socket, subprocess, sys\n"
        "def attempt():\n    return " + attempt + "\n"
        "try:\n    told = [True, attempt()]\n"
        "except BaseException as error:\n    told = [False, f'{type(error).__name__}: {error}']\n"
        "pathlib.Path('told.json').write_text(json.dumps(told, default=str))\n" + GOOD_MAIN
    )
    outcome = outcome_of(executor, folder, main)
    assert outcome.status is None, outcome.reason
    return list(json.loads((folder / "run" / "told.json").read_text()))


# --- what is proved -------------------------------------------------------------------------


def test_the_proof_names_every_attempt_and_that_it_was_stopped(walled: LocalExecutor, tmp_path: Path) -> None:
    isolation = walled.isolation(tmp_path)
    stopped = {item.name for item in isolation.proof.outcomes if item.is_stopped}
    assert stopped >= {*ALWAYS, *BY_LEVEL.get(isolation.level, ())}
    assert isolation.words == f"level {isolation.level} ({isolation.proof.plan.name})"


def test_without_walls_the_same_probe_gets_through(machine: Machine, tmp_path: Path) -> None:
    """Otherwise the probes would prove nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "plans_here", lambda: [(plans.NONE, "")])
        with Sandboxes("warm", "cpu", candidate_environment(1, None), may_be_unsafe=True) as sandboxes:
            sandboxes.incubator("train", tmp_path)
            assert sandboxes.isolation is not None
            outcomes = {item.name: item.is_stopped for item in sandboxes.isolation.proof.outcomes}
    open_ways = {name for name, is_stopped in outcomes.items() if not is_stopped}
    assert open_ways >= {*ALWAYS, *BY_LEVEL[3]} - {"leave a process behind", "look into its parent"}
    assert sandboxes.isolation.words == "none"


@pytest.mark.usefixtures("all_plans")
def test_bubblewrap_holds_on_a_kernel_without_landlock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := dict(plans.plans_here())[plans.BUBBLEWRAP]:
        pytest.skip(reason)
    planned = plans.walls_for
    monkeypatch.setattr("slm_ar.core.train.process.walls_for", lambda *given: {**planned(*given), "landlock": None})
    monkeypatch.setattr(choice, "plans_here", lambda: ONLY(plans.BUBBLEWRAP))
    with Sandboxes("warm", "cpu", candidate_environment(1, None), may_be_unsafe=False) as sandboxes:
        try:
            sandboxes.incubator("train", tmp_path)
        except NoSandboxError as error:
            assert "did not come up" in error.message, error.message  # namespaces are forbidden here
            pytest.skip(error.message)
        assert sandboxes.isolation is not None
        assert sandboxes.isolation.level == 3


def test_training_and_scoring_work_inside(walled: LocalExecutor, executor: LocalExecutor, tmp_path: Path) -> None:
    scores = []
    for number, one in enumerate((walled, executor)):
        folder = tmp_path / str(number)
        assert outcome_of(one, folder, GOOD_MAIN).status is None
        scores.append(one.score(folder / "run", "dev", 32).bits_per_byte)
    assert scores[0] == scores[1]


# --- attacks --------------------------------------------------------------------------------


def test_held_out_text_is_out_of_reach(walled: LocalExecutor, tmp_path: Path) -> None:
    held = walled.data.held_folder
    name = next(path.name for path in held.iterdir() if path.is_file())
    for attempt in (
        f"os.listdir({str(held)!r})",
        f"open({str(held / name)!r}).read(100)",
        f"os.listdir({str(held.parent)!r})",
        f"subprocess.run(['cat', {str(held / name)!r}], check=True, capture_output=True).stdout",
        f"os.listdir({str(walled.data.folder)!r})",
    ):
        is_through, detail = told_by(walled, tmp_path, attempt)
        assert not is_through, detail


def test_the_private_folder_stays_out_of_reach_through_links(walled: LocalExecutor, tmp_path: Path) -> None:
    secret = ensure_private(private_root() / "secrets") / "held.txt"
    secret.write_text("hidden", encoding="utf-8")
    for attempt in (
        f"(os.symlink({str(secret)!r}, 'link'), open('link').read())",
        f"os.link({str(secret)!r}, 'hard')",
        f"open('/proc/self/root{secret}').read()",
        f"open('/proc/self/cwd/../../../../../../../../../..{secret}').read()",
        f"os.rename({str(secret)!r}, 'moved')",
    ):
        is_through, detail = told_by(walled, tmp_path, attempt)
        assert not is_through, detail
    assert secret.read_text(encoding="utf-8") == "hidden"


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('127.0.0.1', {port}), 2)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
        "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "subprocess.run([sys.executable, '-c', 'import socket; socket.create_connection((\"127.0.0.1\", {port}))'],"
        " check=True, capture_output=True)",
    ],
)
def test_there_is_no_network(walled: LocalExecutor, tmp_path: Path, attempt: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        is_through, detail = told_by(walled, tmp_path, attempt.format(port=listener.getsockname()[1]))
    assert not is_through, detail


def test_a_run_finds_nothing_of_an_earlier_one(walled: LocalExecutor, tmp_path: Path) -> None:
    places = "['.', os.environ['HOME'], '/tmp', '/dev/shm', '/var/tmp', os.path.dirname(os.getcwd()), '/', '/dev']"
    leave = (
        "import os, pathlib, json\nleft = []\nfor place in " + places + ":\n    try:\n"
        "        (pathlib.Path(place) / 'warm-start').write_text('weights')\n        left.append(place)\n"
        "    except OSError:\n        pass\n"
        "try:\n    os.setxattr('.', 'user.warm', b'weights')\n    left.append('xattr')\nexcept OSError:\n    pass\n"
        "pathlib.Path('left.json').write_text(json.dumps(left))\n" + GOOD_MAIN
    )
    assert outcome_of(walled, tmp_path / "first", leave).status is None
    left = json.loads((tmp_path / "first" / "run" / "left.json").read_text())
    assert "." in left and "xattr" not in left
    find = "[place for place in " + places + " if (pathlib.Path(place) / 'warm-start').exists()]"
    assert told_by(walled, tmp_path / "second", find) == [True, []]
    first = tmp_path / "first" / "run" / "warm-start"
    assert first.exists()
    is_through, detail = told_by(walled, tmp_path / "second", f"open({str(first)!r}).read()")
    assert not is_through, detail


def test_no_environment_and_no_memory_of_another_process_can_be_read(walled: LocalExecutor, tmp_path: Path) -> None:
    attempt = (
        "[found for found in [open(f'/proc/{number}/environ').read() for number in "
        f"[{os.getpid()}, os.getppid(), 1] if os.access(f'/proc/{{number}}/environ', os.R_OK)] if 'KEY' in found]"
    )
    is_through, value = told_by(walled, tmp_path, attempt)
    assert not is_through or value == []
    for path in (f"/proc/{os.getpid()}/environ", "/proc/{os.getppid()}/mem"):
        is_through, detail = told_by(walled, tmp_path, f"open(f{path!r}, 'rb').read(1)")
        assert not is_through, detail


def test_the_incubator_and_the_harness_cannot_be_touched(walled: LocalExecutor, tmp_path: Path) -> None:
    for attempt in (
        f"os.kill({os.getpid()}, 0)",
        "__import__('resource').prlimit(os.getppid(), __import__('resource').RLIMIT_CPU, (1, 1))",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "os.nice(5)",
        f"os.sched_setaffinity({os.getpid()}, {{0}})",
        "os.sched_setaffinity(os.getppid(), {0})",
        "os.kill(os.getppid(), 0)",
        "__import__('fcntl').fcntl(0, 8, os.getppid())",
    ):
        is_through, detail = told_by(walled, tmp_path, attempt)
        assert not is_through, detail


def test_times_and_owners_of_files_stay_what_they_are(walled: LocalExecutor, tmp_path: Path) -> None:
    diary = tmp_path / "diary.txt"
    diary.write_text("private", encoding="utf-8")
    before = diary.stat()
    for attempt in (
        f"os.utime({str(diary)!r}, ns=(1, 2))",
        f"os.chown({str(diary)!r}, -1, os.getgid())",
        f"subprocess.run(['touch', '-d', '2001-01-01', {str(diary)!r}])",
        "os.utime(os.environ['HOME'], ns=(1, 2))",
    ):
        told_by(walled, tmp_path, attempt)
        after = diary.stat()
        assert (after.st_mtime_ns, after.st_atime_ns, after.st_ctime_ns) == (
            before.st_mtime_ns,
            before.st_atime_ns,
            before.st_ctime_ns,
        )
    is_told, home = told_by(walled, tmp_path, "os.stat(os.environ['HOME']).st_mtime_ns")
    assert is_told and home != 2


def test_train_shards_cannot_be_written_through_their_descriptor(walled: LocalExecutor, tmp_path: Path) -> None:
    spoil = GOOD_MAIN.replace(
        "run.batches(",
        "spoiled(run, ",
    )
    main = (
        "import glob, os, pathlib\nfound = []\n"
        "def spoiled(run, *shape):\n    for number, batch in enumerate(run.batches(*shape)):\n"
        "        if number == 0:\n            for name in os.listdir('/proc/self/fd'):\n"
        "                try:\n                    os.fchmod(int(name), 0o600)\n                except OSError:\n"
        "                    pass\n"
        "                for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC):\n"
        "                    try:\n"
        "                        path = os.readlink(f'/proc/self/fd/{name}')\n"
        "                        if 'tokens' in path or path.endswith('.bin'):\n"
        "                            os.open(f'/proc/self/fd/{name}', flags)\n"
        "                            found.append(path)\n"
        "                    except OSError:\n                        pass\n"
        "            pathlib.Path('found').write_text(repr(found))\n        yield batch\n" + spoil
    )
    shards = {path: path.read_bytes() for path in walled.data.folder.iterdir() if path.is_file()}
    assert outcome_of(walled, tmp_path, main).status is None
    assert (tmp_path / "run" / "found").read_text() == "[]"
    assert {path: path.read_bytes() for path in shards} == shards


def test_no_file_in_memory_and_no_look_at_what_is_cached(walled: LocalExecutor, tmp_path: Path) -> None:
    for attempt in (
        "os.memfd_create('hidden')",
        "os.preadv(os.open(os.__file__, os.O_RDONLY), [bytearray(1)], 0, os.RWF_NOWAIT)",
    ):
        is_through, detail = told_by(walled, tmp_path, attempt)
        assert not is_through, detail
    callback = "(c := __import__('ctypes')).CFUNCTYPE(c.c_int, c.c_int)(lambda number: number + 1)(1)"
    assert told_by(walled, tmp_path, callback) == [True, 2]  # libffi goes on without files in memory


def test_a_server_cannot_write_the_checkpoint_it_serves(walled: LocalExecutor, tmp_path: Path) -> None:
    spoils = TINY_TRAIN_PY.replace(
        "def build_model(config):\n",
        "def build_model(config):\n    import os\n    if os.environ.get('SLM_AR_CONTROL') is None:\n"
        "        for name in ('model.safetensors', 'config.json', 'train.py', 'new'):\n            try:\n"
        "                open(name, 'ab').write(b'spoiled')\n            except OSError:\n                pass\n",
    )
    run = walled.submit(TrainJob(spoils, 0, None, 6, 30.0, 4000), tmp_path / "run")
    while (outcome := run.poll()) is None:
        pass
    assert outcome.status is None
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert walled.score(tmp_path / "run", "dev", 32).bits_per_byte > 0
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert {**after, "log.txt": b""} == {**before, "log.txt": b""}


def test_daemons_and_bombs_leave_no_process(walled: LocalExecutor, tmp_path: Path) -> None:
    bomb = (
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork():\n"
        "            os._exit(0)\n        while True:\n            time.sleep(0.01)\n" + GOOD_MAIN
    )
    assert outcome_of(walled, tmp_path, bomb).status is None
    incubator = walled._sandboxes._incubators["train"]
    below = psutil.Process(incubator.pid).children(recursive=True)
    assert len(below) == (2 if incubator.plan.has_own_processes else 0)


def test_an_incubator_that_does_not_answer_is_ended_with_all_below_it(
    walled: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = GOOD_MAIN + "\nimport os, time\nif os.fork() == 0:\n    os.setsid()\ntime.sleep(60)"
    run = walled.submit(TrainJob(with_main(main), 0, None, 6, 30.0, 4000), tmp_path / "run")
    incubator = psutil.Process(walled._sandboxes._incubators["train"].pid)
    started = psutil.Process(run._child.pid).parent()
    assert started is not None
    below: set[psutil.Process] = set()
    with monkeypatch.context() as patch:
        patch.setattr(process_module, "ANSWER_SECONDS", 0.5)
        started.suspend()  # as a candidate could where it may send signals to its parent
        while (outcome := run.poll()) is None:
            below |= set(incubator.children(recursive=True))
    assert outcome.status is Status.INVALID
    assert "could not be ended" in outcome.reason
    assert below
    _, alive = psutil.wait_procs([*below, incubator], timeout=60)
    assert not alive
    assert outcome_of(walled, tmp_path / "next", GOOD_MAIN).status is None


def test_temporary_files_shells_and_compilers_work_where_code_trains(walled: LocalExecutor, tmp_path: Path) -> None:
    attempt = (
        "[__import__('tempfile').gettempdir() == os.environ['TMPDIR'], len(__import__('tempfile').mkdtemp()) > 0, "
        "subprocess.run(['sh', '-c', 'sleep 0.1 & wait'], timeout=20).returncode]"
    )
    assert told_by(walled, tmp_path, attempt) == [True, [True, True, 0]]


def test_where_nothing_starts_no_descriptor_stays(walled: LocalExecutor, tmp_path: Path) -> None:
    assert outcome_of(walled, tmp_path, GOOD_MAIN).status is None
    incubator = walled._sandboxes.incubator("serve", tmp_path)
    incubator._process.kill()
    incubator._process.wait()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(TrainingError, match="has died"):
            incubator.start("serve", tmp_path / "run", {})
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_too_many_processes_are_a_quota(walled: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_ar.core.train.training_run.MOST_PROCESSES", 20)
    monkeypatch.setattr("slm_ar.core.train.training_run.MOST_PROCESSES_PER_CORE", 0)
    monkeypatch.setattr("slm_ar.core.train.training_run.DISK_LOOK_SECONDS", 0.0)
    main = "import os, time\nfor _ in range(30):\n    if os.fork() == 0:\n        time.sleep(60)\ntime.sleep(60)"
    outcome = outcome_of(walled, tmp_path, main, memory_mb=100_000)
    assert outcome.status is Status.QUOTA
    assert "more than 20 processes" in outcome.reason


def test_deep_and_locked_trees_are_counted_and_removed(walled: LocalExecutor, tmp_path: Path) -> None:
    deep = (
        "import os\nhere = os.getcwd()\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n"
        "os.chdir(here)\nos.mkdir('locked')\nopen('locked/file', 'w').close()\n" + GOOD_MAIN
    )
    assert outcome_of(walled, tmp_path, deep).status in (None, Status.QUOTA)
    assert told_by(walled, tmp_path / "next", "sorted(os.listdir('.'))") == [True, ["job.json", "train.py"]]


def test_no_process_of_ours_has_the_key(walled: LocalExecutor, tmp_path: Path) -> None:
    run = walled.submit(TrainJob(with_main(GOOD_MAIN), 0, None, 6, 30.0, 4000), tmp_path / "run")
    seen = 0
    while (outcome := run.poll(0.05)) is None:
        for process in psutil.Process().children(recursive=True):
            try:
                environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            except OSError:
                continue
            seen += 1
            assert CANARY.encode() not in environment
    assert outcome.status is None and seen
    walled.score(tmp_path / "run", "dev", 32)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()


# --- choosing -------------------------------------------------------------------------------


def test_without_a_sandbox_nothing_runs_unless_asked_for(
    machine: Machine, tiny_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "plans_here", lambda: [(plans.LANDLOCK, "switched off"), (plans.NONE, "")])
    with LocalExecutor(machine, tiny_data) as refused, pytest.raises(NoSandboxError) as caught:
        refused.submit(TrainJob(TINY_TRAIN_PY, 0, None, 6, 30.0, 4000), tmp_path / "run")
    assert "landlock and seccomp: switched off" in caught.value.message
    assert "--allow-unsafe" in caught.value.hint
    with LocalExecutor(machine, tiny_data, allow_unsafe=True) as unsafe:
        assert unsafe.isolation(tmp_path).words == "none"
        assert outcome_of(unsafe, tmp_path, GOOD_MAIN).status is None


@pytest.mark.usefixtures("all_plans")
def test_a_launcher_that_fails_is_passed_over_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    broken = programs / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    if plans.walls.landlock_abi() == 0:
        pytest.skip("no landlock here")
    with Sandboxes("warm", "cpu", candidate_environment(1, None), may_be_unsafe=False) as sandboxes:
        sandboxes.incubator("train", tmp_path)
        assert sandboxes.isolation is not None
        assert sandboxes.isolation.level == 1
        reasons = {plan.name: reason for plan, reason in sandboxes.isolation.passed_over}
    assert "setting up uid map: Permission denied" in reasons["bubblewrap"]


@pytest.mark.usefixtures("all_plans")
def test_a_device_that_is_lost_inside_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with (
        Sandboxes("warm", "cuda", candidate_environment(1, None), may_be_unsafe=False) as sandboxes,
        pytest.raises(TrainingError, match="cuda device is lost inside the sandbox") as caught,
    ):
        sandboxes.incubator("train", tmp_path)
    assert "--allow-unsafe" in caught.value.hint


@pytest.mark.usefixtures("all_plans")
def test_a_sandbox_that_stops_holding_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandboxes("warm", "cpu", candidate_environment(1, None), may_be_unsafe=False) as sandboxes:
        try:
            sandboxes.incubator("train", tmp_path)
        except NoSandboxError as error:
            pytest.skip(error.message)
        proof = sandboxes.isolation.proof  # type: ignore[union-attr]
        monkeypatch.setattr(choice, "prove", lambda *_: replace(proof, failure="code inside can read a private file"))
        with pytest.raises(NoSandboxError, match="does not hold any more: code inside can read a private file"):
            sandboxes.incubator("serve", tmp_path)


@pytest.mark.usefixtures("all_plans")
def test_renewed_sandboxes_are_others_and_a_score_has_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "prove", lambda incubator, *_: Proof(incubator.plan, (), ""))
    with Sandboxes("cold", "cpu", candidate_environment(1, None), may_be_unsafe=True) as sandboxes:
        before = {purpose: sandboxes.incubator(purpose, tmp_path) for purpose in choice.ROLES}
        assert [before[purpose].role for purpose in ("train", "serve", "again")] == ["train", "serve", "serve"]
        sandboxes.renew(tmp_path)
        after = {purpose: sandboxes.incubator(purpose, tmp_path) for purpose in choice.ROLES}
        assert len({one.pid for one in (*before.values(), *after.values())}) == 6
        assert len({one.area.root for one in (*before.values(), *after.values())}) == 6
        assert [one.is_alive for one in (*before.values(), *after.values())] == [False] * 3 + [True] * 3
    assert not any(one.is_alive for one in after.values())
