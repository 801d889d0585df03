"""The ways to close candidate code in, best first: what each starts, shows and forbids. docs/sandbox.md is the page.

Read by choice.py, which tries them, and by process.py, which starts them. A plan is an intention: whether it holds on
this machine is what probes.py finds out.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import seccomp, walls
from .area import Area

SANDBOX_EXEC = "/usr/bin/sandbox-exec"
NO_BUBBLEWRAP = "bubblewrap (the program bwrap) is not installed"
LARGEST_FILE_BYTES = {"train": 8 << 30, "serve": 64 << 20}
"""By the role of an incubator; what a server prints grows no larger either."""
SPARE_PROCESSES = 1024
SHARED_MEMORY_BYTES = 2 << 30
MODULES = ("slm_ar.core", "torch", "numpy", "safetensors", "tokenizers", "psutil")
"""Packages that a candidate must find, wherever they are installed."""
SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/alternatives",
    "/etc/OpenCL",
    "/run/opengl-driver",
)
PLAIN_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
GPU_DEVICES = ("nvidia*", "nvidia-caps/*", "dxg", "kfd", "dri")
PROC_FILES = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/sys/vm")


@dataclass(frozen=True, slots=True)
class Plan:
    """One way. `level` is what it can prove at best."""

    level: int
    name: str
    promise: str

    @property
    def is_isolated(self) -> bool:
        return self.level > 0

    @property
    def has_own_processes(self) -> bool:
        """Whether candidates live in a process namespace of their own, which ends with its first process."""
        return self.level == BUBBLEWRAP.level


BUBBLEWRAP = Plan(3, "bubblewrap", "training code cannot see your files, the network, other programs or held-out text")
SEATBELT = Plan(2, "Seatbelt", "training code cannot read your files or held-out text, nor reach the network")
LANDLOCK = Plan(
    1,
    "landlock and seccomp",
    "training code cannot read or change your files or held-out text, nor reach the network; names and sizes of files "
    "and the list of programs stay visible",
)
NONE = Plan(0, "none", "not isolated: training code can read held-out text and your files; results are not certified")


def plans_here() -> list[tuple[Plan, str]]:
    """The plans for this system, best first, each with the reason why it cannot even be tried (empty: it can)."""
    system = platform.system()
    if system == "Darwin":
        return [(SEATBELT, "" if Path(SANDBOX_EXEC).exists() else f"{SANDBOX_EXEC} is not there"), (NONE, "")]
    if system != "Linux":
        return [(NONE, "")]
    unknown = "" if seccomp.is_known_machine() else f"no system-call filter for {platform.machine()}"
    no_bwrap = "" if shutil.which("bwrap") else NO_BUBBLEWRAP
    no_landlock = "" if walls.landlock_abi() else "this kernel has landlock switched off or is older than 5.13"
    return [(BUBBLEWRAP, unknown or no_bwrap), (LANDLOCK, unknown or no_landlock), (NONE, "")]


def best_level() -> int:
    """What can be had on this kind of system at all, set up here or not: 3 on Linux, 2 on macOS, 0 elsewhere."""
    return plans_here()[0][0].level


def launcher(plan: Plan, area: Area, role: str, device: str) -> list[str]:
    """What the incubator's command begins with."""
    return _bubblewrap(area, role, device) if plan == BUBBLEWRAP else []


def child_launcher(plan: Plan, area: Area, role: str) -> list[str]:
    """What the command of a candidate that is a fresh interpreter begins with."""
    return [SANDBOX_EXEC, "-p", seatbelt_profile(area, role)] if plan == SEATBELT else []


def walls_for(plan: Plan, area: Area, role: str, device: str, processes: int | None) -> dict[str, Any]:
    """What walls.put_up does in the candidate's process."""
    landlock: dict[str, list[str]] | None = None
    writable = [str(area.tmp), *([str(area.work)] if role == "train" else [])]
    gpu = gpu_devices() if device == "cuda" else []
    if plan == BUBBLEWRAP:
        landlock = {"read": ["/"], "write": [*writable, "/dev"]}
    elif plan == LANDLOCK:
        system = ["/sys", "/proc/driver", "/proc/devices"] if gpu else ["/sys/devices/system"]
        read = [*map(str, visible_paths()), *SYSTEM_FILES, *PROC_FILES, *system, str(area.work)]
        landlock = {"read": read, "write": [*writable, *PLAIN_DEVICES, *gpu]}
    return {
        "limits": {"file_bytes": LARGEST_FILE_BYTES[role], "processes": processes},
        "landlock": landlock,
        "sockets": {BUBBLEWRAP: "unix", LANDLOCK: "none"}.get(plan),
        "memory_files": device != "cpu",
        # On the CPU all work of a served model is counted (meter.py), and many short processes would go unseen.
        "processes": role != "serve" or device != "cpu",
    }


def process_cap() -> int | None:
    """RLIMIT_NPROC for candidates: what this person runs now and SPARE_PROCESSES more; None for root, who has none."""
    if os.geteuid() == 0 or platform.system() != "Linux":
        return None
    threads = 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == os.geteuid():
                threads += sum(1 for _ in os.scandir(f"/proc/{entry.name}/task"))
        except OSError:
            continue
    return threads + SPARE_PROCESSES


def gpu_devices() -> list[str]:
    return sorted(str(path) for pattern in GPU_DEVICES for path in Path("/dev").glob(pattern))


@cache
def visible_paths() -> tuple[Path, ...]:
    """Folders that every candidate may read: the system's programs and libraries, this Python and its packages."""
    executable = Path(os.path.realpath(sys.executable))
    found = [Path(name) for name in SYSTEM_FOLDERS]
    found += [executable.parent.parent, Path(sys.base_prefix), Path(sys.prefix)]
    found += [Path(path) for name, path in sysconfig.get_paths().items() if name.endswith("lib") or "std" in name]
    found += [Path(path) for path in [*site.getsitepackages(), site.getusersitepackages()]]
    found += [Path(path) for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    for name in MODULES:
        specification = importlib.util.find_spec(name)
        if specification is not None:
            found += [_installation(Path(path)) for path in specification.submodule_search_locations or ()]
    kept: list[Path] = []
    for path in sorted({path.absolute() for path in found if path.is_dir()}, key=lambda path: len(path.parts)):
        too_wide = path in (Path("/"), Path.home(), *Path.home().parents)
        if not too_wide and not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return tuple(kept)


def _installation(package: Path) -> Path:
    """The folder of packages that this one lies in, for what it imports itself; else the package alone."""
    return next((path for path in package.parents if path.name in ("site-packages", "dist-packages")), package)


# --- level 3: bubblewrap --------------------------------------------------------------------


def _bubblewrap(area: Area, role: str, device: str) -> list[str]:
    """Nothing of this machine but programs, libraries and the area; no network; processes of their own."""
    program = shutil.which("bwrap")
    assert program is not None
    command = [program, "--unshare-all", "--unshare-user", "--die-with-parent", "--cap-drop", "ALL"]
    command += ["--uid", "65534", "--gid", "65534", "--hostname", "slm-ar"]
    for path in visible_paths():
        if path.is_symlink() and path.parent == Path("/"):  # /lib and others, where they are links into /usr
            command += ["--symlink", str(path.readlink()), str(path)]
        else:
            command += ["--ro-bind", str(path), str(path)]
    for name in (*SYSTEM_FILES, "/sys/devices/system"):
        command += ["--ro-bind-try", name, name]
    command += ["--proc", "/proc", "--dev", "/dev"]
    if _bubblewrap_version(program) >= (0, 7):
        command += ["--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"]
    if device == "cuda":
        command += ["--ro-bind-try", "/sys", "/sys"]
        for node in gpu_devices():
            command += ["--dev-bind", node, node]
    bind = "--bind" if role == "train" else "--ro-bind"
    command += [bind, str(area.works), str(area.works), "--bind", str(area.tmps), str(area.tmps)]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--"]


@cache
def _bubblewrap_version(program: str) -> tuple[int, ...]:
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, env={}).stdout
    except (OSError, subprocess.SubprocessError):
        return (0,)
    return tuple(int(part) for part in re.findall(r"\d+", told)[:3]) or (0,)


# --- level 2: macOS -------------------------------------------------------------------------


def seatbelt_profile(area: Area, role: str) -> str:
    """The profile of one candidate: no network, no other process, files as on Linux, Metal where it is.

    Forking is refused, because macOS has no way to find a process that has left its parent.
    """
    read = [*map(str, visible_paths()), "/System", "/Library", "/private/etc", "/dev", "/private/var/db/timezone"]
    read += ["/private/var/db/dyld", str(area.work)]
    write = [str(area.tmp), *([str(area.work)] if role == "train" else [])]
    return "\n".join(
        [
            "(version 1)",
            "(deny default)",
            "(allow process-exec*)",
            "(allow signal (target self))",
            "(allow process-info* (target self))",
            # not kern.procargs2, which holds the environment of every program of this person
            '(allow sysctl-read (sysctl-name-prefix "hw.") (sysctl-name-prefix "machdep.cpu."))',
            '(allow sysctl-read (sysctl-name-prefix "kern.os") (sysctl-name "kern.version" "kern.argmax"))',
            '(allow sysctl-read (sysctl-name "kern.maxfilesperproc" "kern.secure_kernel" "vm.loadavg"))',
            "(allow file-read-metadata)",
            '(allow file-read* (literal "/"))',
            *(f"(allow file-read* file-map-executable (subpath {_quoted(path)}))" for path in read),
            *(f"(allow file-read* file-write* (subpath {_quoted(path)}))" for path in write),
            '(allow file-write* (literal "/dev/null") (literal "/dev/zero"))',
            "(allow ipc-posix-shm* ipc-posix-sem)",
            '(allow mach-lookup (global-name "com.apple.MTLCompilerService"))',
            '(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))',
            '(allow iokit-open (iokit-user-client-class "AGXDeviceUserClient"))',
            '(allow iokit-open (iokit-user-client-class "IOSurfaceRootUserClient"))',
            "(allow iokit-get-properties)",
        ]
    )


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
