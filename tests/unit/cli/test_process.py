"""What only shows in a process of its own: start-up, pipes, signals, terminals."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from lepton import __version__
from lepton.api.auth.v1.auth_pb2 import User
from lepton.api.storage.v1.storage_pb2 import Dataset
from lepton.api.training.v1 import training_pb2
from lepton.cli import completion
from lepton.client import save_profile
from lepton.client.jobs import JobClient
from tests.unit.cli.conftest import LEPTON, Command, process
from tests.unit.sdk.fake_gateway import Gateway, Refusal

SLOW = {"grpc", "google.protobuf", "numpy", "rich", "yaml", "lepton.client", "lepton_local"}
COLOUR = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["-h"], ["completion", "bash"], ["nonsense"]]
)
def test_what_needs_no_gateway_imports_nothing_slow(words: list[str]) -> None:
    """A tenth of a second to start; gRPC alone takes three."""
    code = (
        "import sys; from lepton.cli import main; sys.argv = ['lepton', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.rpartition("MODULES ")[2].split())
    assert "lepton.cli.root" in modules
    assert not modules & SLOW


def test_a_client_without_predictions_imports_no_numpy() -> None:
    code = "import sys, lepton.client; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_help_of_a_group_calls_nobody(lepton: Command) -> None:
    for group in ("data", "job", "model", "endpoint", "user", "key"):
        assert "Commands:" in lepton.ok(group, "--help").out
        done = lepton(group)
        assert (done.code, done.out) == (2, "")
        assert "Commands:" in done.err


def test_version(lepton: Command) -> None:
    assert lepton.ok("--version").out == f"lepton, version {__version__}\n"


def test_help_names_every_command(lepton: Command) -> None:
    names = re.findall(r"^  ([a-z]+)  +\S", lepton.ok("--help").out, re.MULTILINE)
    assert names == sorted(names)
    assert {"data", "job", "model", "endpoint", "infer", "login", "whoami"} < set(names)
    assert {"up", "down", "status", "logs", "doctor"} < set(names)


def test_the_stacks_commands_say_when_the_stack_is_not_installed(
    lepton: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry points come with the client; what they point at comes with an extra."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "lepton_local"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lepton_local.commands", None)
    done = lepton("up")
    assert done.code == 1
    assert "pip install '.[local]'` in Lepton's folder [PACKAGE_MISSING]" in done.err
    assert "up" in lepton.ok("--help").out


@pytest.mark.parametrize("words", [["job", "logs", "j1"], ["job", "list", "-o", "name"]])
def test_a_reader_that_has_seen_enough(words: list[str], gateway: Gateway) -> None:
    gateway.training.lines = ["x" * 1000] * 2000
    for number in range(2000):
        gateway.training.add(f"{'j' * 60}{number}")  # more than a pipe holds
    running = process(*words)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    assert running.wait(30) == 0
    assert running.stderr.read() == ""
    running.stderr.close()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npy"
    np.save(path, np.array([[1, 2]], np.uint8))
    return path


def test_arrays_go_to_a_pipe(gateway: Gateway, images: Path) -> None:
    running = process("infer", "digits", "-i", images, "-o", "npz", text=False)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (0, b"")
    np.testing.assert_array_equal(np.load(io.BytesIO(out))["scores"], [[2, 4]])


@pytest.mark.parametrize("words", ["model list", "infer digits -o npz -i"])
def test_a_reader_that_was_never_there(words: str, gateway: Gateway, images: Path) -> None:
    """Also when what it should get lies in our buffer."""
    reading, writing = os.pipe()
    os.close(reading)
    path = [images] if words.endswith("-i") else []
    running = process(*words.split(), *path, stdout=writing)
    os.close(writing)
    _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (0, "")


def test_ctrl_c_ends_a_command(gateway: Gateway) -> None:
    gateway.training.quiet = True
    running = process("job", "logs", "j1", "-f")
    assert gateway.training.streaming.wait(20)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert (out, err.strip()) == ("", "lepton: interrupted")


def test_ctrl_c_says_that_the_job_goes_on(gateway: Gateway) -> None:
    gateway.training.quiet = True
    running = process("job", "watch", "j1")
    assert gateway.training.streaming.wait(20)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert (running.returncode, out) == (130, "")
    assert "j1 goes on; `lepton job watch` follows it" in err


@pytest.mark.parametrize(
    ("words", "answers", "code", "told"),
    [
        (["data", "delete", "d"], [("[y/N]: ", "n")], 130, "aborted"),
        (["data", "delete", "d"], [("[y/N]: ", "y")], 0, "deleted datasets/d"),
        (
            ["user", "set-password", "ann"],
            [("Password: ", "a long secret"), ("confirmation: ", "a long secret")],
            0,
            "changed the password of ann",
        ),
    ],
)
def test_questions_are_asked_on_a_terminal(
    *, words: list[str], answers: list[tuple[str, str]], code: int, told: str, gateway: Gateway
) -> None:
    """On stderr; stdout is for results."""
    gateway.storage.datasets["datasets/d"] = Dataset(name="datasets/d")
    gateway.auth.users["users/ann"] = User(name="users/ann")
    ours, theirs = pty.openpty()
    with process(*words, stdin=theirs, start_new_session=True) as running:
        os.close(theirs)
        assert running.stdout is not None
        assert running.stderr is not None
        err = ""
        for question, answer in answers:
            while not err.endswith(question):
                piece = running.stderr.read(1)
                assert piece, err
                err += piece
            os.write(ours, f"{answer}\n".encode())
        out, err = running.stdout.read(), err + running.stderr.read()
    os.close(ours)
    assert (running.returncode, out) == (code, ""), err
    assert told in err
    assert "secret" not in err


def on_a_terminal(
    *words: object, stream: str = "stderr", code: int = 0, **environ: str
) -> tuple[str, str]:
    """Runs a command with a stream on a terminal; returns stdout and what the terminal got."""
    ours, theirs = pty.openpty()
    options = {stream: theirs, "env": {**os.environ, "TERM": "xterm", **environ}}
    running = process(*words, **options)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the last writer has closed a terminal
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == code, shown
    return out, shown.decode()


@pytest.fixture
def job(gateway: Gateway) -> str:
    measurement = training_pb2.Measurement(
        epoch=1, epochs=2, progress=0.5, metrics={"train_loss": 0.25}
    )
    gateway.training.events = [
        training_pb2.JobEvent(sequence=1, measurement=measurement),
        training_pb2.JobEvent(sequence=2, job=gateway.training.add("j1")),
    ]
    return "j1"


def test_what_others_wrote_does_not_drive_the_terminal(job: str, gateway: Gateway) -> None:
    """A log, and why a job failed; tabs and indentation stay."""
    gateway.training.lines = ["epoch\t1\x1b]0;mine\x07", "  \x1b[2Jindented\x9b5m"]
    _, shown = on_a_terminal("job", "logs", job, stream="stdout")
    assert shown.splitlines() == ["epoch\t1]0;mine", "  [2Jindented5m"]
    failed = gateway.training.jobs["jobs/j1"]
    failed.failure_reason, failed.failure_message = "CODE_FAILED", "it ended:\n\x1b[2J  two"
    _, shown = on_a_terminal("job", "get", job)
    assert shown.splitlines() == ["it ended:", "[2J  two"]


def test_an_error_does_not_drive_the_terminal(gateway: Gateway) -> None:
    """Its message may quote what somebody sent."""
    gateway.refusals["GetJob"] = Refusal(
        grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", "no job \x1b[2J of yours"
    )
    _, shown = on_a_terminal("job", "get", "j1", code=3)
    assert shown.splitlines() == ["lepton: no job [2J of yours [JOB_NOT_FOUND]"]


def test_a_name_with_brackets_is_shown_as_it_was_typed(gateway: Gateway, tmp_path: Path) -> None:
    """It would be taken for colour otherwise, or for an error in it."""
    file = tmp_path / "a"
    file.write_bytes(b"a")
    _, shown = on_a_terminal("data", "push", "a[red]b[/blue]", file, COLUMNS="160")
    assert "pushing a[red]b[/blue]" in COLOUR.sub("", shown)


def test_progress_goes_to_a_terminal_only(job: str, lepton: Command) -> None:
    out, shown = on_a_terminal("job", "watch", job, "-o", "name")
    assert out == "jobs/j1\n"
    assert "epoch 1/2  train_loss 0.2500" in shown
    assert COLOUR.search(shown)
    assert lepton.ok("job", "watch", job, "-o", "name").err == ""


def test_no_color_is_heeded(job: str) -> None:
    _, shown = on_a_terminal("job", "watch", job, NO_COLOR="1")
    assert "train_loss" in shown
    colours = re.findall(r"\x1b\[(?:3[0-7]|9[0-7]|38;[0-9;]+)m", shown)
    assert colours == []


@pytest.mark.parametrize(
    ("shell", "part"),
    [
        ("bash", "complete -o nosort -F _lepton_completion lepton"),
        ("zsh", "#compdef lepton"),
        ("fish", "complete --no-files --command lepton"),
    ],
)
def test_completion_scripts(shell: str, part: str, lepton: Command) -> None:
    script = lepton.ok("completion", shell).out
    assert part in script
    assert f"_LEPTON_COMPLETE={shell}_complete" in script


@pytest.fixture
def completed(lepton: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What bash is offered after `lepton` and some words, the last one unfinished."""

    def complete(*words: str) -> list[str]:
        monkeypatch.setenv("_LEPTON_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(["lepton", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        done = lepton.ok()
        assert done.err == ""
        return [line.partition(",")[2] for line in done.out.splitlines() if line]

    return complete


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("d", ["data", "doctor", "down"]),
        ("--pro", ["--profile"]),
        ("job l", ["list", "logs"]),
        ("model list --out", ["--output"]),
        ("model list -o y", ["yaml"]),
        ("job get f", ["first"]),
        ("--profile test job get f", ["first"]),
        ("--profile gone job get f", []),
        ("endpoint create e --model d", ["digits"]),
        ("endpoint get x", []),
    ],
)
def test_completion_knows_commands_options_and_names(
    words: str, offered: list[str], gateway: Gateway, completed: Callable[..., list[str]]
) -> None:
    gateway.training.add("first")
    gateway.training.add("second")
    assert completed(*words.split()) == offered


def test_completion_is_silent_when_nobody_answers(
    gateway: Gateway, completed: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_profile("test", replace(gateway.profile, address="localhost:1"))
    assert completed("job", "get", "f") == []

    def answers_never(_: object) -> None:
        signal.pause()

    save_profile("test", gateway.profile)
    monkeypatch.setattr(completion, "_SECONDS", 0.05)
    monkeypatch.setattr(JobClient, "list", answers_never)
    before = signal.getsignal(signal.SIGALRM)
    assert completed("job", "get", "f") == []
    assert signal.getsignal(signal.SIGALRM) == before


def test_bash_takes_the_script(gateway: Gateway) -> None:
    gateway.training.add("only")
    script = (
        f'PATH="{LEPTON.parent}:$PATH"; eval "$(lepton completion bash)"; '
        "COMP_WORDS=(lepton job get o); COMP_CWORD=3; _lepton_completion lepton; "
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("only\n", "")


def test_what_an_endpoint_waits_for_is_shown(gateway: Gateway) -> None:
    """On a terminal, for as long as it takes; stdout has the result alone."""
    words = ("endpoint", "create", "digits", "--model", "digits/1", "-o", "name")
    out, shown = on_a_terminal(*words, COLUMNS="120")
    assert out == "endpoints/digits\n"
    assert "endpoints/digits deploying: fetching models/digits/versions/1" in shown


@pytest.mark.parametrize(("given", "used"), [(None, "native"), ("ares", "ares")])
def test_names_are_resolved_by_the_system(
    given: str | None, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC's own resolver makes each command end a second later; who wants it may have it."""
    monkeypatch.delenv("GRPC_DNS_RESOLVER", raising=False)
    if given is not None:
        monkeypatch.setenv("GRPC_DNS_RESOLVER", given)
    code = (
        "import os, sys; from lepton.cli import main; sys.argv = ['lepton', 'model', 'list']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('grpc' in sys.modules, os.environ['GRPC_DNS_RESOLVER'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"True {used}\n"
