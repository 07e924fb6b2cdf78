"""``lepton infer``: ask an endpoint."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from lepton.cli.completion import names_of
from lepton.cli.documents import read_json
from lepton.cli.errors import InputError
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
            arrays = dict(_from_file(argument, expected) for argument in inputs)
        results = lepton.endpoints.infer(endpoint, arrays, timeout=timeout)
    _show(results, output)


def _from_file(argument: str, expected: dict[str, Any]) -> tuple[str, tensors.Array]:
    name, equals, filename = argument.partition("=")
    if not equals:
        if len(expected) != 1:
            raise InputError(f"name the input: one of {', '.join(expected)}, as NAME={name}")
        name, filename = next(iter(expected)), argument
    if name not in expected:
        raise InputError(f"no input {name}; the endpoint has {', '.join(expected)}")
    path = Path(filename)
    if path.suffix == ".npy":
        return name, read_npy(path)
    if path.suffix == ".json":
        return name, tensors.from_plain(read_json(path), expected[name].datatype, str(path))
    raise InputError(f"{path} is neither .npy nor .json")


def read_npy(path: Path) -> tensors.Array:
    """The array in an .npy file; raises InputError where it is none."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not an .npy file of plain numbers: {error}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} is an archive of arrays; give one array, saved by numpy.save")
    return array


def _from_body(path: Path) -> dict[str, tensors.Array]:
    document = read_json(path)
    try:
        return {
            tensor["name"]: tensors.from_plain(
                tensor["data"], tensor["datatype"], tensor["name"]
            ).reshape(tensor["shape"])
            for tensor in document["inputs"]
        }
    except (KeyError, TypeError) as error:
        raise InputError(
            f'{path} is not a request: {error}; it looks like {{"inputs": [{{"name": "image", '
            '"shape": [1, 28, 28], "datatype": "UINT8", "data": […]}]}'
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


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
