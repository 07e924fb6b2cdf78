"""Keeps this process, and all that it starts, to files of its own: Landlock, landlock(7).

Needs no rights, and cannot be undone. Beside files it keeps the process from signalling and from
tracing what is not below it, where the kernel is new enough (6.12; 5.13 for tracing). Landlock
leaves Unix sockets alone, behind which a proxy or a container engine of the same user may listen: a
filter of system calls, seccomp(2), lets the process make none but connected pairs.

``/dev/shm`` is replaced by one of the process's own where it may have namespaces, and is closed
to it otherwise: what lies there belongs to all programs of a user.

This file is also a script, run with ``-I -S`` by the service's interpreter:
``confinement.py FOLDERS COMMAND...`` confines itself and becomes ``COMMAND``. So nothing that a
user wrote or chose is imported before: no ``.pth`` file of a package, no module in the folder
that the code may write in. It needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, SOCK_RAW

# Numbers of the calls are the same on every architecture that has them (landlock.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ALL_OF_FIRST = (1 << 13) - 1
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_SCOPES = 1 << 0 | 1 << 1
"""Abstract Unix sockets and signals."""
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_SLAVE = 1 << 1, 1 << 2, 1 << 14, 1 << 19
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_CALLS = {"x86_64": (0xC000003E, 41, 53), "aarch64": (0xC00000B7, 198, 199)}
"""Of each machine: as what seccomp knows it (audit.h), and its numbers of socket and socketpair."""
_IO_URING_SETUP = 425
_OTHER_ABI = 0x40000000
"""From here on calls of x86_64 are of x32, with numbers of their own."""

READABLE = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/proc", "/sys"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/timezone", "/etc/mime.types", "/etc/fonts"),
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/python3*"),
    *("/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/protocols", "/etc/services"),
    *("/etc/resolv.conf", "/run/systemd/resolve"),
    *(
        "/etc/ssl",
        "/etc/pki/tls",
        "/etc/pki/ca-trust",
        "/etc/ca-certificates",
        "/etc/crypto-policies",
    ),
)
"""What any program needs; of /proc, what others' processes hold is closed by the kernel."""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "nvidia*", "dri")
"""Below /dev."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - what is replaced


def confined_command(
    command: Sequence[str], *, readable: Iterable[Path], writable: Iterable[Path]
) -> list[str]:
    """``command``, which begins with a whole path, as what confines it first."""
    folders = {"readable": [*map(str, readable)], "writable": [*map(str, writable)]}
    return [sys.executable, "-I", "-S", __file__, json.dumps(folders), *command]


def main() -> None:
    """Confines this process and becomes the command."""
    folders, command = json.loads(sys.argv[1]), sys.argv[2:]
    readable, writable = (list(map(Path, folders[name])) for name in ("readable", "writable"))
    if _replace_shared_memory():
        writable.append(_SHARED_MEMORY)
    else:
        _tell("this machine gives no namespaces, so there is no shared memory (/dev/shm) for code")
    if not confine(readable, writable):
        _tell("this kernel has no Landlock: the code is not kept from others' files")
    os.execv(command[0], command)  # noqa: S606 - what it is for


def landlock_version() -> int:
    """Of this kernel; below 1 where it has none, or it is turned off."""
    return _call(_CREATE_RULESET, None, 0, _VERSION_FLAG)


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def confine(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Leaves this process those folders, :data:`READABLE` and :data:`DEVICES`, for good.

    Returns:
        False where the kernel has no Landlock: nothing is changed then.

    Raises:
        OSError: The kernel has it, and refuses.
    """
    version = landlock_version()
    if version < 1:
        return False
    handled = _ALL_OF_FIRST | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("=QQQ", handled, 0, _SCOPES if version >= 6 else 0)
    ruleset = _checked(
        _call(_CREATE_RULESET, attributes, 24 if version >= 6 else 8, 0), "create_ruleset"
    )
    try:
        named = (path for pattern in READABLE for path in Path("/").glob(pattern[1:]))
        for path in (*named, *readable):
            _allow(ruleset, path, _READ & handled)
        for pattern in DEVICES:
            for device in Path("/dev").glob(pattern):
                _allow(ruleset, device, handled)
        for path in writable:
            _allow(ruleset, path, handled)
        library = ctypes.CDLL(None, use_errno=True)
        _checked(library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        _checked(_call(_RESTRICT_SELF, ruleset, 0), "restrict_self")
    finally:
        os.close(ruleset)
    _refuse_unix_sockets(library)
    return True


def _replace_shared_memory() -> bool:
    """Whether /dev/shm is this process's own from now on; it goes with its last process."""
    child = os.fork()  # what is half done cannot be undone: it is tried first
    if child == 0:
        os._exit(0 if _mounted() else 1)
    return os.waitpid(child, 0)[1] == 0 and _mounted()


def _mounted() -> bool:
    library = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    try:
        if library.unshare(_CLONE_NEWNS) != 0:
            if library.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
                return False
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        return False
    target = os.fsencode(_SHARED_MEMORY)
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV)
    return bool(
        library.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None) == 0
        and library.mount(b"lepton", target, b"tmpfs", flags, b"mode=0700") == 0
    )


def _refuse_unix_sockets(library: ctypes.CDLL) -> None:
    """Lets this process make no Unix socket but connected pairs that cannot be sent elsewhere.

    Nor may it have io_uring, whose requests no filter sees, or calls of another architecture.
    """
    if os.uname().machine not in _CALLS:
        _tell(f"Unix sockets are open to the code: no filter for {os.uname().machine} is known")
        return
    machine, socket, socketpair = _CALLS[os.uname().machine]
    load, equal, at_least, give, mask = 0x20, 0x15, 0x35, 0x06, 0x54
    refuse, allow = 0x00050000 | errno.EACCES, 0x7FFF0000
    # Each: operation, jump if true, jump if false, value; of struct seccomp_data, the call's number
    # is at 0, the architecture at 4, arguments from 16 on (the lower half of each is first).
    steps = (
        (load, 0, 0, 4),
        (equal, 0, 13, machine),
        (load, 0, 0, 0),
        (at_least, 11, 0, _OTHER_ABI),
        (equal, 10, 0, _IO_URING_SETUP),
        (equal, 2, 0, socket),
        (equal, 3, 0, socketpair),
        (give, 0, 0, allow),
        (load, 0, 0, 16),
        (equal, 5, 4, AF_UNIX),
        (load, 0, 0, 24),
        (mask, 0, 0, 0xF),  # the rest are flags
        (equal, 2, 0, SOCK_DGRAM),
        (equal, 1, 0, SOCK_RAW),  # the same, for the kernel
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    _checked(library.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, on this system
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _FILE
        rule = struct.pack("=Qi", access, descriptor)
        _checked(_call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0), f"add_rule for {path}")
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    # A variadic function: whole numbers must be passed as wide as a register.
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return int(library.syscall(ctypes.c_long(number), *passed))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"confinement, {what}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    main()
