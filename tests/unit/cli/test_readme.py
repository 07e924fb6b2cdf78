"""The commands that README.md shows exist, with the options that it gives them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from lepton.cli.root import cli

README = Path(__file__).parents[3] / "README.md"
_SHOWN = re.compile(r"^    (?:\$ )?(?:\w+=\$\()?(lepton .*)$", re.MULTILINE)
_LISTED = re.compile(r"^\| (`lepton .*?) \| ", re.MULTILINE)


def test_every_command_line_parses() -> None:
    lines = _SHOWN.findall(README.read_text())
    assert len(lines) > 10
    assert "lepton job create -f spec.yaml --follow" in lines, "the transcript"
    for line in lines:
        _, *words = shlex.split(line.rstrip(")"), comments=True)
        command, context = _descend(words)
        known = {option for parameter in command.params for option in parameter.opts}
        # -o and -h stand for themselves; values are whatever the user has.
        given = {word for word in words if word.startswith("-")}
        assert given <= known, f"{line}: no {given - known} in {context.command_path}"


def test_every_listed_command_exists_and_none_is_left_out() -> None:
    rows = _LISTED.findall(README.read_text())
    assert len(rows) > 5
    for row in rows:
        for shown in re.findall(r"`([^`]+)`", row):
            words = [word for word in shown.removeprefix("lepton ").split() if word != "…"]
            group, _ = _descend(words[:1])
            if isinstance(group, click.Group) and r"\|" in " ".join(words[1:2]):
                verbs = words[1].split(r"\|")
                assert sorted(verbs) == sorted(group.commands), f"lepton {words[0]}"


def _descend(words: list[str]) -> tuple[click.Command, click.Context]:
    """The command that ``words`` call; fails where a group has no such command."""
    command, context = cli, click.Context(cli, info_name="lepton")
    for word in words:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(context, word)
        if found is None:
            assert word.startswith("-"), f"no command {word} in {context.command_path}"
            continue
        command, context = found, click.Context(found, parent=context, info_name=word)
    return command, context
