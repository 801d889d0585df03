"""A system-call filter for candidate code on Linux: no network, no way into other processes, no traces that last.

`install` is called in the candidate's own process, after the fork and before its code; it cannot be undone. What is
refused here would otherwise cross the walls around it: sockets (landlock knows no UDP), io_uring (opens sockets past
any filter), other processes' memory, new namespaces, and everything that outlives a process without being a file of
the run: System V and POSIX queues, keyrings, extended attributes. What changes the mode, owner or times of a file is
answered with success and does nothing: landlock does not know these calls, so a descriptor handed over for reading
could be made writable by its owner, and the times of any file of the person would be a note to the next process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

REFUSED = (  # noqa: SIM905  (a list of words is read as words)
    "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise bpf perf_event_open userfaultfd "
    "add_key request_key keyctl shmget shmat shmctl semget semop semctl semtimedop msgget msgsnd msgrcv msgctl "
    "mq_open mq_unlink mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick "
    "mount_setattr unshare setns init_module delete_module finit_module kexec_load kexec_file_load reboot swapon "
    "swapoff acct quotactl quotactl_fd settimeofday clock_settime adjtimex clock_adjtime open_by_handle_at "
    "name_to_handle_at sethostname setdomainname fanotify_init personality syslog ioprio_set sched_setattr "
    "sched_setparam sched_setscheduler setpriority iopl ioperm"
).split()
UNKNOWN = (  # noqa: SIM905
    "io_uring_setup io_uring_enter io_uring_register clone3 mincore cachestat preadv2"
).split()
"""Answered as an old kernel would; libraries then take the way that the filter understands. The last three tell which
parts of a file somebody has read: the next process could read there what this one left."""
MEMORY_FILES = ("memfd_create", "memfd_secret")
"""Files in memory that no folder shows and no cap counts; the drivers of GPUs use them."""
FORKS = ("fork", "vfork")
UNSUPPORTED = ("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr", "setxattrat")
WITHOUT_EFFECT = (  # noqa: SIM905
    "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat file_setattr "
    "fadvise64 readahead"
).split()
SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")

_COMMON = {
    "clone3": 435, "fchmodat2": 452, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "setxattrat": 463,
    "pidfd_send_signal": 424, "file_setattr": 469, "memfd_secret": 447, "cachestat": 451,
}  # fmt: skip
_X86_64 = {
    "ioctl": 16, "shmget": 29, "shmat": 30, "shmctl": 31, "socket": 41, "connect": 42,
    "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58, "kill": 62, "semget": 64, "semop": 65, "semctl": 66,
    "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71,
    "chmod": 90, "fchmod": 91, "ptrace": 101, "syslog": 103, "capset": 126, "rt_sigqueueinfo": 129,
    "personality": 135, "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144, "pivot_root": 155,
    "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167,
    "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
    "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "tkill": 200, "semtimedop": 220,
    "clock_settime": 227, "tgkill": 234, "mq_open": 240, "mq_unlink": 241, "kexec_load": 246, "add_key": 248,
    "request_key": 249, "keyctl": 250, "ioprio_set": 251, "fchmodat": 268, "unshare": 272,
    "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "fanotify_init": 300, "prlimit64": 302,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "sched_setattr": 314, "seccomp": 317,
    "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "fcntl": 72, "chown": 92, "fchown": 93, "lchown": 94,
    "mincore": 27, "madvise": 28, "readahead": 187, "fadvise64": 221, "memfd_create": 319, "preadv2": 327,
    "utime": 132, "sched_setaffinity": 203, "utimes": 235, "fchownat": 260, "futimesat": 261, "utimensat": 280,
}  # fmt: skip
_AARCH64 = {
    "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
    "ioctl": 29, "ioprio_set": 30, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "fchmod": 52,
    "fchmodat": 53, "quotactl": 60, "acct": 89, "capset": 91, "personality": 92, "unshare": 97, "kexec_load": 104,
    "init_module": 105, "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117,
    "sched_setparam": 118, "sched_setscheduler": 119, "kill": 129, "tkill": 130, "tgkill": 131,
    "rt_sigqueueinfo": 138, "setpriority": 140, "reboot": 142, "sethostname": 161, "setdomainname": 162,
    "settimeofday": 170, "adjtimex": 171, "mq_open": 180, "mq_unlink": 181, "msgget": 186, "msgctl": 187,
    "msgrcv": 188, "msgsnd": 189, "semget": 190, "semctl": 191, "semtimedop": 192, "semop": 193, "shmget": 194,
    "shmctl": 195, "shmat": 196, "socket": 198, "socketpair": 199, "connect": 203, "add_key": 217,
    "request_key": 218, "keyctl": 219, "clone": 220, "swapon": 224, "swapoff": 225, "rt_tgsigqueueinfo": 240,
    "perf_event_open": 241, "prlimit64": 261, "fanotify_init": 262, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "sched_setattr": 274, "seccomp": 277, "bpf": 280,
    "userfaultfd": 282, "kexec_file_load": 294, "fcntl": 25, "fchownat": 54, "fchown": 55, "utimensat": 88,
    "sched_setaffinity": 122, "readahead": 213, "fadvise64": 223, "mincore": 232, "madvise": 233,
    "memfd_create": 279, "preadv2": 286,
}  # fmt: skip
MACHINES = {"x86_64": (0xC000003E, _X86_64 | _COMMON), "aarch64": (0xC00000B7, _AARCH64 | _COMMON)}
"""Machine -> (audit architecture, system call numbers)."""

NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: typing into the terminal of the person."""
FILE_FLAGS = (0x40086602, 0x40046602, 0x401C5820, 0x40087602, 0x40047602)
"""FS_IOC_SETFLAGS, FSSETXATTR and SETVERSION: notes in the flags of a file that may only be read."""
OUT_OF_MEMORY = (20, 21)
"""MADV_COLD and MADV_PAGEOUT: choosing what of a file the next process finds in memory."""
OWNER_COMMANDS = (8, 10, 15)
"""F_SETOWN, F_SETSIG and F_SETOWN_EX of fcntl: a signal of one's choice to another process, past `kill`."""
OWNER_REQUESTS = (0x8901, 0x8902)
"""FIOSETOWN and SIOCSPGRP: the same by ioctl."""
THREAD = 0x00010000
"""CLONE_THREAD."""
_X32_BIT = 0x40000000
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_SET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16

Program = list[tuple[int, int, int, int]]


def is_known_machine() -> bool:
    return platform.machine() in MACHINES


def build(
    machine: str, unix_sockets: bool, own: int, only_own_signals: bool, memory_files: bool, processes: bool
) -> bytes:
    """The filter as the kernel's array of sock_filter, for one machine.

    `unix_sockets`: AF_UNIX may be opened (inside a network namespace); otherwise only unnamed stream pairs.
    `own`: the candidate's process id. The cores of other processes cannot be set, and with `only_own_signals` they get
    no signals (kernels that do not scope them themselves). `memory_files`: whether MEMORY_FILES may be made.
    `processes`: whether it may start any. Where not, it may start threads, whose time is counted with its own.
    """
    architecture, numbers = MACHINES[machine]
    program: Program = [
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _AT_NUMBER),
    ]
    if machine == "x86_64":
        program += [(_JUMP_ABOVE, 0, 1, _X32_BIT), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for names, answer in (
        (REFUSED, errno.EPERM),
        (UNKNOWN, errno.ENOSYS),
        (() if memory_files else MEMORY_FILES, errno.ENOSYS),
        (() if processes else FORKS, errno.EPERM),
        (UNSUPPORTED, errno.EOPNOTSUPP),
        (WITHOUT_EFFECT, 0),
    ):
        for name in names:
            if name in numbers:
                program += [(_JUMP_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ERRNO | answer)]
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EACCES)
    if unix_sockets:
        program += _when(numbers["socket"], 0, [(_JUMP_EQUAL, 1, 0, 1), refuse])
    else:
        program += [(_JUMP_EQUAL, 0, 1, numbers["socket"]), refuse, (_JUMP_EQUAL, 0, 1, numbers["connect"]), refuse]
        datagram = [(_AND, 0, 0, 0xF), (_JUMP_EQUAL, 0, 1, 2), refuse]  # a pair of these could send to any path
        program += _when(numbers["socketpair"], 1, datagram)
    forbid = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    threads_alone = [] if processes else [(_JUMP_SET, 1, 0, THREAD), forbid]
    program += _when(numbers["clone"], 0, [(_JUMP_SET, 0, 1, NEW_NAMESPACES), forbid, *threads_alone])
    program += _when(numbers["prlimit64"], 0, [(_JUMP_EQUAL, 1, 0, 0), forbid])
    typing = [
        step for code in (*TERMINAL_INPUT, *FILE_FLAGS, *OWNER_REQUESTS) for step in ((_JUMP_EQUAL, 0, 1, code), refuse)
    ]
    program += _when(numbers["ioctl"], 1, typing)
    unknown = (_RETURN, 0, 0, _ERRNO | errno.EINVAL)
    advices = [step for advice in OUT_OF_MEMORY for step in ((_JUMP_EQUAL, 0, 1, advice), unknown)]
    program += _when(numbers["madvise"], 2, advices)
    commands = [step for command in OWNER_COMMANDS for step in ((_JUMP_EQUAL, 0, 1, command), forbid)]
    program += _when(numbers["fcntl"], 1, commands)
    mine = [(_JUMP_EQUAL, 2, 0, 0), (_JUMP_EQUAL, 1, 0, own), forbid]
    program += _when(numbers["sched_setaffinity"], 0, mine)
    if only_own_signals:
        for name in SIGNALS:
            program += _when(numbers[name], 0, [(_JUMP_EQUAL, 1, 0, own), forbid])
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in program)


def _when(number: int, argument: int, steps: Iterable[tuple[int, int, int, int]]) -> Program:
    """`steps` on the low half of an argument of one system call; allowed if none of them returns."""
    body = [(_LOAD, 0, 0, _AT_ARGUMENTS + 8 * argument), *steps, (_RETURN, 0, 0, _ALLOW)]
    return [(_JUMP_EQUAL, 0, len(body), number), *body]


def install(unix_sockets: bool, only_own_signals: bool, memory_files: bool, processes: bool) -> None:
    """Filter this process and all it starts, for good. Raises OSError; needs PR_SET_NO_NEW_PRIVS before."""
    machine = platform.machine()
    code = build(machine, unix_sockets, os.getpid(), only_own_signals, memory_files, processes)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    call = ctypes.CDLL(None, use_errno=True).syscall
    set_filter, allow_speculation = 1, 4
    for flags in (allow_speculation, 0):  # old kernels slow a filtered process down unless told not to
        if call(MACHINES[machine][1]["seccomp"], set_filter, flags, program) == 0:
            return
    raise OSError(ctypes.get_errno(), "the system-call filter was refused")
