"""``lepton data``: push, list, get and delete datasets."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.cli.completion import names_of
from lepton.cli.errors import InputError
from lepton.cli.output import (
    confirm,
    counted,
    moment,
    note,
    output_option,
    show,
    show_list,
    size,
    yes_option,
)
from lepton.cli.progress import bytes_bar
from lepton.cli.session import client
from lepton.client.names import dataset_name

_FORMATS = {
    "raw": pb.DATASET_FORMAT_RAW,
    "idx": pb.DATASET_FORMAT_IDX,
    "csv": pb.DATASET_FORMAT_CSV,
}
_DATASETS = (
    ("NAME", lambda dataset: dataset.name),
    ("LATEST", lambda dataset: dataset.latest_version.rpartition("/")[2]),
    ("DESCRIPTION", lambda dataset: dataset.description),
    ("CREATED", lambda dataset: moment(dataset.create_time)),
)
_VERSIONS = (
    ("NAME", lambda version: version.name),
    ("FORMAT", lambda version: _format(version.format)),
    ("SIZE", lambda version: size(version.size_bytes)),
    ("DIGEST", lambda version: version.digest[:19]),
    (
        "STATISTICS",
        lambda version: " ".join(
            f"{key}={value}" for key, value in sorted(version.statistics.items())
        ),
    ),
    ("CREATED", lambda version: moment(version.create_time)),
)


@click.group()
def data() -> None:
    """Push, list, get and delete datasets."""


@data.command()
@click.argument("dataset", shell_complete=names_of("datasets"))
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH...",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(_FORMATS)),
    default=None,
    help="How the files are read and checked.  [default: guessed from their names]",
)
@click.option("--description", default="", help="Where the data comes from.")
@output_option
@click.pass_context
def push(
    ctx: click.Context,
    dataset: str,
    paths: tuple[Path, ...],
    format_name: str | None,
    description: str,
    output: str,
) -> None:
    """Make a version of DATASET from files and folders; the dataset is made when missing.

    Files whose bytes the workspace already holds are not sent again: a push that broke off
    is pushed again.
    """
    files = _files(paths)
    chosen = _FORMATS[format_name] if format_name else _guess(files)
    total = sum(path.stat().st_size for path in files.values())
    with client(ctx) as lepton, bytes_bar(f"pushing {dataset}", total) as update:
        version = lepton.data.push(
            dataset, files, format=chosen, description=description, progress=update
        )
    show(version, output, _VERSIONS)


@data.command("list")
@click.argument("dataset", required=False, shell_complete=names_of("datasets"))
@output_option
@click.pass_context
def list_data(ctx: click.Context, dataset: str | None, output: str) -> None:
    """List the datasets, or with DATASET its versions."""
    with client(ctx) as lepton:
        if dataset:
            show_list(lepton.data.versions(dataset), output, _VERSIONS)
        else:
            show_list(lepton.data.list(), output, _DATASETS)


@data.command()
@click.argument("version", shell_complete=names_of("datasets"))
@click.option(
    "-d",
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where to write the files.  [default: only show the version]",
)
@output_option
@click.pass_context
def get(ctx: click.Context, version: str, directory: Path | None, output: str) -> None:
    """Show a version (mnist, mnist/3), or with -d fetch its files.

    A fetch that broke off goes on where it was; every file is checked against its digest.
    """
    with client(ctx) as lepton:
        found = lepton.data.version(version)
        if directory is not None:
            with bytes_bar(f"fetching {found.name}", found.size_bytes) as update:
                lepton.data.fetch(found, directory, progress=update)
            note(f"wrote {counted(len(found.files), 'file')} to {directory}")
        show(found, output, _VERSIONS)


@data.command()
@click.argument("dataset", shell_complete=names_of("datasets"))
@yes_option
@click.pass_context
def delete(ctx: click.Context, dataset: str, yes: bool) -> None:
    """Delete a dataset with all its versions."""
    name = dataset_name(dataset)
    confirm(f"Delete {name} with all its versions?", yes)
    with client(ctx) as lepton:
        lepton.data.delete(name)
    note(f"deleted {name}")


def _files(paths: tuple[Path, ...]) -> dict[str, Path]:
    """Path in the version -> local file: a file by its name, a folder's files below it.

    Raises:
        InputError: Two files would have one path, there are none, or one is no plain file.
        OSError: A folder cannot be read.
    """
    found: dict[str, Path] = {}
    for path in paths:
        pairs = (
            [(file.relative_to(path).as_posix(), file) for file in _below(path)]
            if path.is_dir()
            else [(path.name, path)]
        )
        for name, file in pairs:
            _check_plain(file)
            if name in found:
                raise InputError(
                    f"{found[name]} and {file} would both be {name}; rename one of them",
                    "DATASET_INVALID",
                )
            found[name] = file
    if not found:
        raise InputError(
            f"no files in {', '.join(str(path) for path in paths)}; name what is to be pushed",
            "DATASET_INVALID",
        )
    return found


def _below(folder: Path) -> list[Path]:
    """All that is below a folder but folders, in order."""

    def refuse(error: OSError) -> None:
        raise error  # os.walk would pass over what cannot be read

    return sorted(
        path
        for where, folders, names in os.walk(folder, onerror=refuse)
        for path in (Path(where, name) for name in folders + names)
        # os.walk does not go through a link to a folder.
        if path.is_symlink() or not path.is_dir()
    )


def _check_plain(path: Path) -> None:
    if path.is_file():
        return
    if not path.exists():
        what, remedy = "a link to what is not there", "mend or remove it"
    elif path.is_dir():
        what, remedy = "a link to a folder", "put a copy of the folder in its place"
    else:
        what, remedy = "no plain file", "move it elsewhere"
    raise InputError(f"{path} is {what}; {remedy}, then push again", "DATASET_INVALID")


def _guess(files: dict[str, Path]) -> pb.DatasetFormat:
    if any(name.endswith("-ubyte.gz") for name in files):
        return pb.DATASET_FORMAT_IDX
    if all(name.endswith(".csv") for name in files):
        return pb.DATASET_FORMAT_CSV
    return pb.DATASET_FORMAT_RAW


def _format(value: int) -> str:
    return next((name for name, number in _FORMATS.items() if number == value), "raw")
