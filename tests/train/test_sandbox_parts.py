"""The parts of a sandbox without a sandbox: the filter's program, the area between runs, plans and profiles."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.core.environment import without_secrets
from slm_ar.core.train.process import candidate_environment
from slm_ar.core.train.sandbox import area as area_module
from slm_ar.core.train.sandbox import plans, seccomp
from slm_ar.core.train.sandbox.area import Area, byte_count, empty_contents, keep_log, make_log, open_log

ALLOW, KILL = 0x7FFF0000, 0x80000000


def run_filter(
    machine: str,
    name: str,
    *arguments: int,
    unix: bool = False,
    signals: bool = True,
    files: bool = False,
    processes: bool = True,
    arch: int = 0,
) -> int:
    """What the kernel would make of one system call: the filter's program, interpreted."""
    architecture, numbers = seccomp.MACHINES[machine]
    call = struct.pack("=IIQ6Q", numbers.get(name, 9999), arch or architecture, 0, *(list(arguments) + [0] * 6)[:6])
    code = seccomp.build(machine, unix, 77, only_own_signals=not signals, memory_files=files, processes=processes)
    steps = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    at = value = 0
    while True:
        operation, if_true, if_false, constant = steps[at]
        at += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", call, constant)
        elif operation == 0x54:
            value &= constant
        elif operation == 0x06:
            return int(constant)
        else:
            holds = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[operation]
            at += if_true if holds else if_false


def refused(code: int) -> int:
    return 0x00050000 | code


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_decides_as_it_should_on_both_machines(machine: str) -> None:
    assert run_filter(machine, "read") == ALLOW
    assert run_filter(machine, "read", arch=1) == KILL
    for name in ("ptrace", "mount", "unshare", "setns", "keyctl", "shmget", "bpf", "setpriority"):
        assert run_filter(machine, name) == refused(errno.EPERM)
    for name in ("io_uring_setup", "clone3"):
        assert run_filter(machine, name) == refused(errno.ENOSYS)
    for name in ("fchmod", "fchown", "fchownat", "utimensat", "file_setattr"):
        assert run_filter(machine, name) == refused(0)
    assert run_filter(machine, "ioctl", 3, 0x40086602) == refused(errno.EACCES)
    assert run_filter(machine, "setxattr") == refused(errno.EOPNOTSUPP)
    assert run_filter(machine, "prlimit64", 0) == ALLOW
    assert run_filter(machine, "prlimit64", 4) == refused(errno.EPERM)
    assert run_filter(machine, "clone", 0x3D0F00) == ALLOW  # a thread
    assert run_filter(machine, "clone", 17) == ALLOW  # a fork
    assert run_filter(machine, "clone", 0x10000000 | 17) == refused(errno.EPERM)  # a user namespace
    assert run_filter(machine, "ioctl", 1, 0x5401) == ALLOW
    assert run_filter(machine, "ioctl", 1, 0x5412) == refused(errno.EACCES)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@given(flags=st.integers(0, 2**32 - 1))
def test_where_no_process_may_be_started_threads_may(machine: str, flags: int) -> None:
    thread, namespaces = 0x10000, 0x7E020000
    is_allowed = bool(flags & thread) and not flags & namespaces
    assert run_filter(machine, "clone", flags, processes=False) == (ALLOW if is_allowed else refused(errno.EPERM))
    for name in ("fork", "vfork") if machine == "x86_64" else ():
        assert run_filter(machine, name, processes=False) == refused(errno.EPERM)
        assert run_filter(machine, name) == ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("family", range(1, 46))
def test_no_socket_but_unix_ones_and_those_only_where_they_lead_nowhere(machine: str, family: int) -> None:
    assert run_filter(machine, "socket", family, 1) == refused(errno.EACCES)
    assert run_filter(machine, "socket", family, 1, unix=True) == (ALLOW if family == 1 else refused(errno.EACCES))


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_pairs_of_sockets_cannot_be_addressed(machine: str) -> None:
    assert run_filter(machine, "socketpair", 1, 1) == ALLOW
    assert run_filter(machine, "socketpair", 1, 0o2000000 | 1) == ALLOW
    assert run_filter(machine, "socketpair", 1, 0o2000000 | 2) == refused(errno.EACCES)
    assert run_filter(machine, "connect") == refused(errno.EACCES)
    assert run_filter(machine, "connect", unix=True) == ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@given(pid=st.integers(0, 2**31 - 1))
def test_where_the_kernel_does_not_scope_signals_only_ones_own_process_gets_them(machine: str, pid: int) -> None:
    for name in seccomp.SIGNALS:
        assert run_filter(machine, name, pid, signals=False) == (ALLOW if pid == 77 else refused(errno.EPERM))
        assert run_filter(machine, name, pid) == ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_lies_in_memory_of_a_file_can_be_neither_seen_nor_chosen(machine: str) -> None:
    for name in ("mincore", "cachestat", "preadv2", "memfd_create", "memfd_secret"):
        assert run_filter(machine, name) == refused(errno.ENOSYS)
    for name in ("fadvise64", "readahead"):
        assert run_filter(machine, name) == refused(0)
    for advice in range(30):
        assert run_filter(machine, "madvise", 0, 0, advice) == (refused(errno.EINVAL) if advice in (20, 21) else ALLOW)
    assert run_filter(machine, "memfd_create", files=True) == ALLOW  # for the driver of a GPU


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@given(pid=st.integers(1, 2**31 - 1))
def test_the_cores_of_another_process_cannot_be_set(machine: str, pid: int) -> None:
    assert run_filter(machine, "sched_setaffinity", 0) == ALLOW
    assert run_filter(machine, "sched_setaffinity", pid) == (ALLOW if pid == 77 else refused(errno.EPERM))


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_no_file_can_be_made_to_send_signals(machine: str) -> None:
    for command in range(20):
        sends = command in (8, 10, 15)
        assert run_filter(machine, "fcntl", 3, command) == (refused(errno.EPERM) if sends else ALLOW)
    assert run_filter(machine, "ioctl", 3, 0x8901) == refused(errno.EACCES)


# --- the area -------------------------------------------------------------------------------


def test_a_run_gets_its_files_and_brings_back_what_it_wrote(tmp_path: Path) -> None:
    area, folder = Area(tmp_path / "runs"), tmp_path / "runs" / "000001"
    folder.mkdir()
    for name in ("train.py", "job.json", "log.txt", "model.safetensors"):
        (folder / name).write_text(name)
    for place in (area.work, area.works, area.tmps):
        (place / "left").write_text("by the run before")
    area.fill("train", folder, may_link=False)
    assert sorted(path.name for path in area.work.iterdir()) == ["job.json", "train.py"]
    (area.work / "config.json").write_text("new")
    (area.work / "log.txt").write_text("forged")
    (area.work / "deep" / "er").mkdir(parents=True)
    (area.work / "link").symlink_to("/etc/passwd")
    os.mkfifo(area.work / "pipe")
    area.collect(folder)
    assert (folder / "config.json").read_text() == "new"
    assert (folder / "log.txt").read_text() == "log.txt"
    assert (folder / "link").is_symlink()
    assert not (folder / "deep").exists()
    assert list(area.work.iterdir()) == list(area.tmp.iterdir()) == []
    assert [list(area.works.iterdir()), list(area.tmps.iterdir())] == [[area.work], [area.tmp]]
    area.remove()
    assert not area.root.exists()


def test_what_one_run_made_of_a_folder_is_gone_for_the_next(tmp_path: Path) -> None:
    """Its times, and its size, which an emptied folder keeps on ext4."""
    area = Area(tmp_path / "runs")
    before = {folder.name for folder in (area.work, area.tmp)}
    sizes = [folder.stat().st_size for folder in (area.work, area.tmp)]
    for folder in (area.work, area.tmp):
        for number in range(1500):
            (folder / f"{'n' * 200}{number}").touch()
        os.utime(folder, ns=(1111111111, 2222222222))
    area.empty()
    assert not {folder.name for folder in (area.work, area.tmp)} & before
    assert [folder.stat().st_size for folder in (area.work, area.tmp)] == sizes
    assert not {folder.stat().st_mtime_ns for folder in (area.work, area.tmp)} & {1111111111, 2222222222}


def test_a_folder_in_place_of_the_checkpoint_does_not_leave_the_old_one(tmp_path: Path) -> None:
    area, folder = Area(tmp_path / "runs"), tmp_path / "runs" / "000001"
    folder.mkdir()
    (folder / "model.safetensors").write_text("of an earlier attempt")
    (area.work / "model.safetensors" / "inner").mkdir(parents=True)
    area.collect(folder)
    assert (folder / "model.safetensors").is_dir()


def test_an_area_that_was_tampered_with_is_whole_again(tmp_path: Path) -> None:
    area, folder = Area(tmp_path / "runs"), tmp_path / "runs" / "000001"
    folder.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    area.work.rmdir()
    area.work.symlink_to(elsewhere)
    area.collect(folder)
    assert (elsewhere / "precious").read_text() == "kept"
    assert not (folder / "precious").exists()
    assert area.work.is_dir() and not area.work.is_symlink()


def test_what_a_killed_harness_left_is_removed_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    living = Area(tmp_path)
    dead = tmp_path / ".sandbox-999999999-abc"
    (dead / "work" / "model").mkdir(parents=True)
    Area(tmp_path)
    assert living.root.exists()
    assert not dead.exists()


def test_trees_of_any_depth_are_removed(tmp_path: Path) -> None:
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(2500):
            Path("d").mkdir()
            os.chdir("d")
        Path("file").write_text("x")
    finally:
        os.chdir(here)
    assert byte_count(tmp_path) == float("inf")
    empty_contents(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_counted_without_following_links_and_files_without_end_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("/usr")
    assert 1000 <= byte_count(tmp_path) < 1100
    monkeypatch.setattr(area_module, "MOST_ENTRIES", 2)
    assert byte_count(tmp_path) == float("inf")


def test_the_log_is_a_file_of_ours_whatever_lay_there(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / "log.txt").symlink_to(target)
    os.close(open_log(tmp_path))
    assert not (tmp_path / "log.txt").is_symlink()
    assert target.read_text() == "kept"


def test_a_log_without_end_is_cut_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    for size, kept in ((area_module.LOG_BYTES, area_module.LOG_BYTES), (5 << 20, area_module.LOG_KEPT_BYTES)):
        log.write_bytes(b"x" * (size - 4) + b"last")
        os.close(open_log(tmp_path))
        assert log.stat().st_size == kept
        assert log.read_bytes().endswith(b"xlast")
    log.write_bytes(b"x" * (5 << 20))
    Area(tmp_path / "runs").collect(tmp_path)
    assert log.stat().st_size == area_module.LOG_KEPT_BYTES


def test_a_process_learns_nothing_of_the_logs_before_its_own_and_the_run_keeps_them_all(tmp_path: Path) -> None:
    area, folder = Area(tmp_path / "runs"), tmp_path
    (folder / "log.txt").write_text("trained\n")
    for words in (b"first\n", b"second\n"):
        write, read = make_log(area)
        assert (os.fstat(write).st_size, os.fstat(write).st_nlink) == (0, 0)
        os.write(write, words)
        os.close(write)
        keep_log(read, folder)
    assert (folder / "log.txt").read_text() == "trained\nfirst\nsecond\n"
    write, read = make_log(area)
    os.ftruncate(write, 5 << 20)
    os.write(write, b"last")
    os.close(write)
    keep_log(read, folder)
    assert (folder / "log.txt").stat().st_size < area_module.LOG_KEPT_BYTES + 100
    assert (folder / "log.txt").read_bytes().endswith(b"last")


# --- plans ----------------------------------------------------------------------------------


def test_bubblewrap_shows_no_home_no_private_folder_and_no_other_run(tmp_path: Path, private_folder: Path) -> None:
    area = Area(tmp_path / "runs")
    shown = {str(path) for path in plans.visible_paths()} | {str(area.works), str(area.tmps)}
    for hidden in (Path.home(), private_folder, tmp_path, tmp_path / "runs", area.root, Path("/"), Path("/etc")):
        assert str(hidden) not in shown
        assert not any(private_folder.is_relative_to(path) for path in shown)


def test_a_server_may_write_its_temporary_folder_alone(tmp_path: Path) -> None:
    area = Area(tmp_path / "runs")
    for plan in (plans.BUBBLEWRAP, plans.LANDLOCK):
        walls = plans.walls_for(plan, area, "serve", "cpu", None)
        assert str(area.tmp) in walls["landlock"]["write"]
        assert str(area.work) not in walls["landlock"]["write"]
        assert walls["limits"]["file_bytes"] == 64 << 20
        assert not walls["memory_files"]
        assert not walls["processes"]
        assert plans.walls_for(plan, area, "serve", "cuda", None)["memory_files"]
        assert plans.walls_for(plan, area, "train", "cpu", None)["processes"]
        assert str(area.work) in plans.walls_for(plan, area, "train", "cpu", None)["landlock"]["write"]
    for role, rule in (("serve", "file-read*"), ("train", "file-write*")):
        profile = plans.seatbelt_profile(area, role)
        written = [line for line in profile.splitlines() if "file-write*" in line]
        assert any(str(area.work) in line for line in written) is (rule == "file-write*")


def test_the_profile_for_macos_denies_by_default_and_quotes_names(tmp_path: Path) -> None:
    area = Area(tmp_path / 'a "quoted" name')
    lines = plans.seatbelt_profile(area, "train").splitlines()
    assert lines[:2] == ["(version 1)", "(deny default)"]
    assert not [line for line in lines if "network" in line or "process-fork" in line or "kern.procargs" in line]
    assert all(line.count("(") == line.count(")") for line in lines)
    assert any('a \\"quoted\\" name' in line for line in lines)


# --- environments ---------------------------------------------------------------------------


def test_candidates_get_names_from_a_list_and_helpers_everything_but_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "HF_TOKEN", "LD_PRELOAD", "PYTHONPATH", "SLM_AR_PRIVATE", "SOMETHING"):
        monkeypatch.setenv(name, "value")
    assert not {"ANTHROPIC_API_KEY", "HF_TOKEN", "LD_PRELOAD", "PYTHONPATH", "SLM_AR_PRIVATE", "SOMETHING"} & set(
        candidate_environment(1, None)
    )
    given_on = without_secrets(os.environ, ("HF_TOKEN",))
    assert "SOMETHING" in given_on and "HF_TOKEN" in given_on
    assert "ANTHROPIC_API_KEY" not in given_on
