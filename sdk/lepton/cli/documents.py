"""YAML and JSON that people give: from a file, or - for standard input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from lepton.cli.errors import FileError


class _KeyTwice(yaml.MarkedYAMLError):
    """A mapping that says two things of one key."""


class _Loader(yaml.SafeLoader):
    """YAML with numbers as people write them (1e-3, as YAML 1.2 has it), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise _KeyTwice(None, None, f"the key '{key}' is there twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        FileError: It is not YAML; names the line.
        OSError: It cannot be read.
    """
    what = named(path)
    try:
        return yaml.load(_text(path), _Loader)  # noqa: S506  a SafeLoader
    except _KeyTwice as error:
        raise FileError(f"{what}: {error.problem}{_at(error)}; leave one of them out") from None
    except yaml.MarkedYAMLError as error:
        raise FileError(
            f"{what} is not YAML{_at(error)}; correct the indentation (spaces, no tabs), the "
            "quotes or the brackets there"
        ) from None
    except yaml.YAMLError:
        raise FileError(f"{what} is not YAML: it has characters that are no text") from None
    except ValueError:  # of what YAML takes for a date, or for a number of thousands of digits
        raise FileError(
            f"{what} has a date or a number that cannot be; correct it, or put it in quotes"
        ) from None
    except RecursionError:
        raise FileError(f"{what} is nested too deep; take it apart") from None


def read_mapping(path: Path, fields: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        path: The file.
        fields: Some of the fields that belong there, for the message.

    Raises:
        FileError: It is not YAML, or no mapping.
        OSError: It cannot be read.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise FileError(f"{named(path)} is not a mapping of fields such as {fields}")
    return content


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileError: It is not JSON; names the line.
        OSError: It cannot be read.
    """
    what = named(path)
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        if error.pos >= len(error.doc.rstrip()):
            raise FileError(f"{what} is not JSON: it ends at {at}, before it is whole") from None
        raise FileError(
            f"{what} is not JSON at {at}; correct the comma, the quotes or the brackets there"
        ) from None
    except ValueError:
        raise FileError(f"{what} has a number of too many digits; shorten it") from None
    except RecursionError:
        raise FileError(f"{what} is nested too deep; take it apart") from None


def named(path: Path) -> str:
    """What a message calls it."""
    return "standard input" if str(path) == "-" else str(path)


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except UnicodeDecodeError:
        raise FileError(f"{named(path)} is not text in UTF-8") from None


def _at(error: yaml.MarkedYAMLError) -> str:
    return f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
