"""YAML and JSON that people give: from a file, or - for standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from lepton.cli.errors import InputError


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        InputError: It is not YAML; names the line.
        OSError: It cannot be read.
    """
    try:
        return yaml.safe_load(_text(path))
    except yaml.MarkedYAMLError as error:
        at = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{named(path)} is not YAML: {error.problem}{at}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{named(path)} is not YAML: {error}") from None


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
