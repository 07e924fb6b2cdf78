"""Results for people and for programs: one option, four formats."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TextIO, TypeVar

import click
import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.cli.errors import printable

Command = TypeVar("Command", bound=Callable[..., Any])
Columns = Sequence[tuple[str, Callable[[Any], str]]]
"""Heading, and what a resource has under it."""


def output_option(command: Command) -> Command:
    """Adds ``-o table|json|yaml|name``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml", "name"]),
        default="table",
        show_default=True,
        help="Format of the result.",
    )(command)


def document_option(command: Command) -> Command:
    """Adds ``-o table|json|yaml``, for results that have no name."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="Format of the result.",
    )(command)


def show_list(resources: Iterable[Message], output: str, columns: Columns) -> None:
    """Prints resources: a table, a JSON or YAML list, or one name a line."""
    if output == "table":
        table(list(resources), columns)
    elif output == "name":
        for resource in resources:
            click.echo(_name(resource))
    else:
        _document([to_plain(resource) for resource in resources], output)


def show(resource: Message, output: str, columns: Columns) -> None:
    """Prints one resource: a table of one row, a JSON or YAML object, or its name."""
    if output in {"json", "yaml"}:
        _document(to_plain(resource), output)
    else:
        show_list([resource], output, columns)


def show_plain(value: Any, output: str) -> None:
    """Prints plain data as JSON or YAML."""
    _document(value, output)


def to_plain(resource: Message) -> dict[str, Any]:
    """A message as plain data, with the field names of the proto.

    Fields that are empty, 0 or false are left out. 64-bit integers are numbers, as everybody
    expects who did not grow up with JavaScript; protobuf's JSON has them as strings.
    """
    plain: dict[str, Any] = MessageToDict(resource, preserving_proto_field_name=True)
    return _with_numbers(resource.DESCRIPTOR, plain)


# Descriptors are of one of two unrelated classes, by the implementation that protobuf chose.
def _with_numbers(descriptor: Any, plain: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _with_number(descriptor.fields_by_name[name], value) for name, value in plain.items()
    }


def _with_number(field: Any, value: Any) -> Any:
    if isinstance(value, list):
        return [_with_number(field, each) for each in value]
    if field.cpp_type in {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}:
        return int(value)
    inner = field.message_type
    if inner is None or inner.full_name.startswith("google.protobuf."):
        return value  # a timestamp is text, a struct has no 64-bit integers
    if inner.GetOptions().map_entry:
        values = inner.fields_by_name["value"]
        return {key: _with_number(values, each) for key, each in value.items()}
    return _with_numbers(inner, value)


def moment(stamp: Timestamp) -> str:
    """A timestamp in local time, to the second; empty when unset."""
    if not stamp.seconds:
        return ""
    return datetime.fromtimestamp(stamp.seconds).strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Bytes with a binary unit, such as ``11.1 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def counted(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def note(text: str) -> None:
    """A message for people: stderr."""
    click.echo(_shown_on(sys.stderr, text), err=True)


def tell(text: str) -> None:
    """Lines that others may have written: stdout, for programs as they are."""
    click.echo(_shown_on(sys.stdout, text))


def confirm(question: str, yes: bool) -> None:
    """Asks before something that cannot be undone, unless ``yes`` was said already.

    Raises:
        click.Abort: The answer is no.
        click.UsageError: There is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say so with --yes")
    click.confirm(question, abort=True, err=True)


def yes_option(command: Command) -> Command:
    """Adds ``--yes``, for :func:`confirm`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def _shown_on(stream: TextIO, text: str) -> str:
    """Text as it is, or its lines without what would drive the terminal that ``stream`` is."""
    if not stream.isatty():
        return text
    # With their tabs, which only move on.
    lines = ("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))
    return "\n".join(lines)


def on_terminal() -> bool:
    """Whether somebody watches stderr."""
    return sys.stderr.isatty()


def _name(resource: Any) -> str:
    return str(resource.name)


def _document(value: Any, output: str) -> None:
    if output == "yaml":
        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(resources: Sequence[Any], columns: Columns) -> None:
    """Prints what may be no resources: a heading, and a row each."""
    rows = [[heading for heading, _ in columns]]
    rows += [[_cell(pick(resource)) for _, pick in columns] for resource in resources]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def _cell(text: str) -> str:
    """Text on one line, without what would drive a terminal: others may have written it."""
    return printable(" ".join(text.split()))
