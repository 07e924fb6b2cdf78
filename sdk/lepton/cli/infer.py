"""``lepton infer``: ask an endpoint."""

from __future__ import annotations

import math
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from lepton.cli.completion import names_of
from lepton.cli.documents import named, read_json
from lepton.cli.errors import FileError, InputError
from lepton.cli.output import show_plain
from lepton.cli.session import client
from lepton.client import tensors


@click.command()
@click.argument("endpoint", shell_complete=names_of("endpoints"))
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]FILE",
    help="An input tensor: .npy, or .json with nested lists. NAME may be left out when the "
    "endpoint has one input.",
)
@click.option(
    "-f",
    "--file",
    "body",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help='An Open Inference request body: {"inputs": [{"name", "shape", "datatype", "data"}]}; '
    "- for standard input.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml", "name", "npz"]),
    default="table",
    show_default=True,
    help="Format of the result; name gives the outputs' names, npz goes to stdout, which must "
    "not be a terminal.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds.",
)
@click.pass_context
def infer(
    ctx: click.Context,
    endpoint: str,
    inputs: tuple[str, ...],
    body: Path | None,
    output: str,
    timeout: float,
) -> None:
    """Predict with ENDPOINT."""
    if bool(inputs) == (body is not None):
        raise click.UsageError("give the inputs with -i, or a whole request with -f")
    if output == "npz" and sys.stdout.isatty():
        raise click.UsageError("npz is binary; send it to a file: lepton infer … -o npz > out.npz")
    with client(ctx) as lepton:
        if body is not None:
            arrays = _from_body(body)
        else:
            metadata = lepton.endpoints.metadata(endpoint)
            expected = {tensor.name: tensor for tensor in metadata.inputs}
            arrays = _from_files(inputs, expected)
        results = lepton.endpoints.infer(endpoint, arrays, timeout=timeout)
    _show(results, output)


def _from_files(arguments: tuple[str, ...], expected: dict[str, Any]) -> dict[str, tensors.Array]:
    arrays: dict[str, tensors.Array] = {}
    for argument in arguments:
        name, array = _from_file(argument, expected)
        if name in arrays:
            raise InputError(f"the input {name} is given twice; leave one of them out")
        arrays[name] = array
    return arrays


def _from_file(argument: str, expected: dict[str, Any]) -> tuple[str, tensors.Array]:
    name, equals, filename = argument.partition("=")
    if not equals:
        if len(expected) != 1:
            raise InputError(f"name the input: one of {', '.join(expected)}, as NAME={name}")
        name, filename = next(iter(expected)), argument
    if name not in expected:
        raise InputError(f"no input {name}; the endpoint has {', '.join(expected)}")
    path = Path(filename)
    if stat.S_ISDIR(path.stat().st_mode):
        raise FileError(f"{path} is a folder; give a file, .npy or .json")
    if path.suffix == ".npy":
        return name, read_npy(path)
    if path.suffix == ".json":
        return name, tensors.from_plain(read_json(path), expected[name].datatype, str(path))
    raise FileError(f"{path} is neither .npy nor .json; save the values as one of them")


def read_npy(path: Path) -> tensors.Array:
    """The array in an .npy file.

    Raises:
        FileError: It holds none.
        OSError: It cannot be read.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile):
        raise FileError(
            f"{path} is not an .npy file of plain numbers, or not a whole one; "
            "numpy.save writes one"
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise FileError(f"{path} is an archive of arrays; give one array, saved by numpy.save")
    return array


_REQUEST = (
    'a request looks like {"inputs": [{"name": "image", "shape": [1, 28, 28], '
    '"datatype": "UINT8", "data": […]}]}'
)
_FIELDS: tuple[tuple[str, type, str], ...] = (
    ("name", str, "text"),
    ("shape", list, "a list of whole numbers"),
    ("datatype", str, "text"),
    ("data", list, "a list of values"),
)
"""What an input of a request must have: the field, its type and what people call that."""


def _from_body(path: Path) -> dict[str, tensors.Array]:
    document = read_json(path)
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(inputs, list):
        raise FileError(f'{named(path)} is not a request: it has no list "inputs"; {_REQUEST}')
    arrays: dict[str, tensors.Array] = {}
    for index, tensor in enumerate(inputs):
        where = f"{named(path)}: inputs[{index}]"
        _check_input(tensor, where)
        name, shape = tensor["name"], tensor["shape"]
        if name in arrays:
            raise FileError(f"{where} is {name} once more; leave one of them out")
        array = tensors.from_plain(tensor["data"], tensor["datatype"], f"{where}.data")
        if math.prod(shape) != array.size:
            raise FileError(
                f"{where}: the shape {shape} takes {math.prod(shape)} values, and data has "
                f"{array.size}; correct one of them"
            )
        arrays[name] = array.reshape(shape)
    return arrays


def _check_input(tensor: Any, where: str) -> None:
    if not isinstance(tensor, dict):
        raise FileError(f"{where} is not an object with fields; {_REQUEST}")
    for field, kind, called in _FIELDS:
        if field not in tensor:
            raise FileError(f'{where} has no "{field}"; {_REQUEST}')
        if not isinstance(tensor[field], kind):
            raise FileError(f"{where}.{field} is not {called}; {_REQUEST}")
    if not all(type(size) is int and size >= 0 for size in tensor["shape"]):
        raise FileError(f"{where}.shape is not a list of whole numbers, each 0 or more")


def _show(results: dict[str, tensors.Array], output: str) -> None:
    if output == "npz":
        np.savez(sys.stdout.buffer, allow_pickle=False, **results)
        return
    if output in {"json", "yaml"}:
        show_plain({name: _plain(array) for name, array in results.items()}, output)
        return
    for name, array in results.items():
        if output == "name":
            click.echo(name)
            continue
        click.echo(f"{name}  {tensors.datatype(array)} {list(array.shape)}")
        with np.printoptions(precision=4, suppress=True, threshold=100):
            click.echo(str(array))
        if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f":
            click.echo(f"argmax  {array.argmax(axis=1).tolist()}")


def _plain(values: Any) -> Any:
    """Nested lists of what JSON has; NaN and the infinities as the strings of protobuf's JSON."""
    if isinstance(values, np.ndarray):
        return _plain(values.tolist())
    if isinstance(values, list):
        return [_plain(value) for value in values]
    if isinstance(values, bytes):
        return values.decode(errors="replace")
    if isinstance(values, float) and not math.isfinite(values):
        return "NaN" if math.isnan(values) else "Infinity" if values > 0 else "-Infinity"
    return values
