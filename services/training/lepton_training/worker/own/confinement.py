"""Keeps this process, and all that it starts, to files of its own: Landlock, landlock(7).

Needs no rights, and cannot be undone. Beside files it keeps the process from signalling and from
tracing what is not below it, where the kernel is new enough (6.12; 5.13 for tracing).

This file is also a script, run with ``-I -S`` by the service's interpreter:
``confinement.py FOLDERS COMMAND...`` confines itself and becomes ``COMMAND``. So nothing that a
user wrote or chose is imported before: no ``.pth`` file of a package, no module in the folder
that the code may write in. It needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# Numbers of the calls are the same on every architecture that has them (landlock.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ALL_OF_FIRST = (1 << 13) - 1
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_SCOPE_SIGNALS = 1 << 1

READABLE = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/etc", "/proc", "/sys"),
    "/run/systemd/resolve",
)
"""What any program needs; of /proc, what others' processes hold is closed by the kernel."""
DEVICES = (
    *("null", "zero", "full", "random", "urandom", "tty"),
    *("shm", "nvidia*", "dri"),
)
"""Below /dev, shared memory among them."""


def confined_command(
    command: Sequence[str], *, readable: Iterable[Path], writable: Iterable[Path]
) -> list[str]:
    """``command``, which begins with a whole path, as what confines it first."""
    folders = {"readable": [*map(str, readable)], "writable": [*map(str, writable)]}
    return [sys.executable, "-I", "-S", __file__, json.dumps(folders), *command]


def main() -> None:
    """Confines this process and becomes the command."""
    folders, command = json.loads(sys.argv[1]), sys.argv[2:]
    readable, writable = map(Path, folders["readable"]), map(Path, folders["writable"])
    if not confine(readable, writable):
        sys.stderr.write("this kernel has no Landlock: the code is not kept from others' files\n")
        sys.stderr.flush()
    os.execv(command[0], command)  # noqa: S606 - what it is for


def confine(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Leaves this process those folders, :data:`READABLE` and :data:`DEVICES`, for good.

    Returns:
        False where the kernel has no Landlock: nothing is changed then.

    Raises:
        OSError: The kernel has it, and refuses.
    """
    version = _call(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    if version < 1:
        return False
    handled = _ALL_OF_FIRST | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("=QQQ", handled, 0, _SCOPE_SIGNALS if version >= 6 else 0)
    ruleset = _checked(
        _call(_CREATE_RULESET, attributes, 24 if version >= 6 else 8, 0), "create_ruleset"
    )
    try:
        for path in (*map(Path, READABLE), *readable):
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
    return True


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
        raise OSError(number, f"Landlock, {what}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    main()
