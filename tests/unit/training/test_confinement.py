"""What a user's code is kept from, tried by a process that is confined as it is."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lepton_training.worker.own import job
from lepton_training.worker.own.confinement import confined_command
from lepton_training.worker.own.errors import CodeUnconfined

TRY = """
import socket, os, errno
def tried(what):
    try:
        return what()
    except OSError as error:
        return errno.errorcode[error.errno]
"""


def confined(directory: Path, script: str, *arguments: str) -> list[str]:
    """Lines that ``script`` prints; it may write in a folder of its own."""
    own = directory / "own"
    own.mkdir(exist_ok=True)
    command = confined_command(
        [sys.executable, "-I", "-c", TRY + script, *arguments],
        readable=[Path(sys.prefix), Path(sys.base_prefix)],
        writable=[own],
    )
    done = subprocess.run(command, cwd=own, capture_output=True, text=True, timeout=60, check=False)
    if "no Landlock" in done.stderr:
        pytest.skip("this kernel has no Landlock")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_no_socket_of_another_program_can_be_reached(tmp_path: Path) -> None:
    """Neither by its path nor by an abstract name, nor out of a pair; pairs and TCP stay open."""
    script = """
import asyncio, sys
for address in (sys.argv[1], "\\0" + sys.argv[2]):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        print(tried(lambda: socket.socket(socket.AF_UNIX, kind).connect(address)))
print(tried(lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].connect(sys.argv[1])))
print(tried(lambda: socket.socketpair(type=socket.SOCK_RAW)[0].connect(sys.argv[1])))
one, other = socket.socketpair()
one.sendall(b"pair")
print(other.recv(9).decode())
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
asyncio.run(asyncio.sleep(0))
print("tcp")
"""
    name = f"lepton-{tmp_path.name}-{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX) as path, socket.socket(socket.AF_UNIX) as abstract:
        path.bind(str(tmp_path / "admin"))
        abstract.bind(f"\0{name}")
        for server in (path, abstract):
            server.listen()
        found = confined(tmp_path, script, str(tmp_path / "admin"), name)
    assert found == ["EACCES"] * 6 + ["pair", "tcp"]


def test_shared_memory_of_others_is_not_there(tmp_path: Path) -> None:
    """/dev/shm is the code's own, with what its processes share; or closed, without namespaces."""
    script = """
import multiprocessing
print(tried(lambda: os.listdir("/dev/shm")))
def work(queue):
    queue.put("shared")
if tried(lambda: os.listdir("/dev/shm")) == []:
    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=work, args=(queue,))
    process.start()
    print(queue.get())
    process.join()
"""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        found = confined(tmp_path, script)
        assert Path(file.name).exists()
    assert found in (["[]", "shared"], ["EACCES"])


def test_of_the_system_it_reads_what_programs_need(tmp_path: Path) -> None:
    """Names of hosts and users, certificates; not what else lies in /etc, nor what is beside it."""
    (tmp_path / "secret").write_text("secret")
    script = """
import sys
print(tried(lambda: os.listdir("/etc")))
print(tried(lambda: open(sys.argv[1]).read()), tried(lambda: open("/etc/passwd").read(4)))
"""
    found = confined(tmp_path, script, str(tmp_path / "secret"))
    assert found == ["EACCES", "EACCES root"]


def test_without_landlock_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the setting that allows it all the same; with Landlock it runs anyway."""
    monkeypatch.setattr(job, "landlock_version", lambda: -1)
    with pytest.raises(CodeUnconfined, match="set LEPTON_ALLOW_UNCONFINED_CODE=true"):
        job.check_confinement(allow_unconfined=False)
    job.check_confinement(allow_unconfined=True)
    monkeypatch.setattr(job, "landlock_version", lambda: 1)
    job.check_confinement(allow_unconfined=False)
