"""YAML and JSON that people give: from a file, or - for standard input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from lepton.cli.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML with numbers as people write them (1e-3, as YAML 1.2 has it), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is there twice", key_node.start_mark
                )
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
        InputError: It is not YAML; names the line.
        OSError: It cannot be read.
    """
    try:
        return yaml.load(_text(path), _Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        at = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{named(path)} is not YAML: {error.problem}{at}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{named(path)} is not YAML: {error}") from None


def read_mapping(path: Path, fields: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        path: The file.
        fields: Some of the fields that belong there, for the message.

    Raises:
        InputError: It is not YAML, or no mapping.
        OSError: It cannot be read.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{named(path)} is not a mapping of fields such as {fields}")
    return content


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: It is not JSON; names the line.
        OSError: It cannot be read.
    """
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{named(path)} is not JSON: {error}") from None


def named(path: Path) -> str:
    """What a message calls it."""
    return "standard input" if str(path) == "-" else str(path)


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except UnicodeDecodeError:
        raise InputError(f"{named(path)} is not text in UTF-8") from None
