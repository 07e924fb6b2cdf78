"""``lepton model explain``: what a version owes to its columns, and why it answers as it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton.cli.completion import names_of
from lepton.cli.documents import named, read_json
from lepton.cli.errors import FileError, InputError, printable
from lepton.cli.model_evaluation import interval, interval_heading, readable
from lepton.cli.output import document_option, note, show_plain, table
from lepton.cli.session import client

if TYPE_CHECKING:
    from lepton.client.explanations import Explanation

_PARTS_SHOWN = 10
_OF_INPUT = ("baseline", "target", "budget", "seed")
"""Options that say how a new row is explained."""


@click.command()
@click.argument("name", shell_complete=names_of("models"))
@click.option("--rows", is_flag=True, help="Show single test rows instead of the whole test split.")
@click.option(
    "-i",
    "--input",
    "row",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Explain this row: .json with its values by input name, or with the value alone where "
    "there is one input; .npy for an array; - for JSON from standard input.",
)
@click.option(
    "--baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The row that it is compared with, in a file as above, instead of the one kept with the "
    "version.",
)
@click.option(
    "--target",
    default="",
    help="The class whose probability is explained, instead of the predicted one; without class "
    "names the place of a number in the output, from 0.",
)
@click.option(
    "--budget",
    type=click.IntRange(2, 1_000_000),
    default=2000,
    show_default=True,
    help="Rows to ask the endpoint about: the more, the smaller ERROR.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the orders that are tried.",
)
@document_option
@click.pass_context
def explain(
    ctx: click.Context,
    name: str,
    rows: bool,
    row: Path | None,
    baseline: Path | None,
    target: str,
    budget: int,
    seed: int,
    output: str,
) -> None:
    """Show what a version (NAME, NAME/3, NAME/ALIAS) owes to each column of its input.

    RISE is how much higher its loss on the test rows is when the column's values are shuffled.
    With --rows the parts of single rows, by integrated gradients: ATTRIBUTION is the share of a
    part in what the output differs by from that of the baseline. With --input the same of a new
    row, by Shapley values: an endpoint that serves the version is asked.
    """
    if row is None:
        _refuse_alone(ctx)
    elif rows:
        raise click.UsageError("give --rows, or a row of your own with --input")
    with client(ctx) as lepton:
        version = lepton.models.version(name)
        if row is not None:
            explanation = lepton.explain(
                version,
                _read(row),
                baseline=None if baseline is None else _read(baseline),
                target=target,
                budget=budget,
                seed=seed,
            )
            _show_explanation(explanation, output)
            return
        if rows:
            explained = lepton.models.explanations(version)
            with readable(version.name):
                _show_rows(explained, output)
            return
        found = lepton.models.evaluation(version)
    importance = found.get("importance")
    if not importance:
        raise InputError(
            f"{version.name} has no importance of columns: it has no columns, or its job set "
            "evaluation.importance_repeats to 0",
            "EVALUATION_UNAVAILABLE",
        )
    if output != "table":
        show_plain(importance, output)
        return
    with readable(version.name):
        table(
            importance,
            (
                ("COLUMN", lambda each: each["column"]),
                ("FIGURE", lambda each: each["metric"]),
                ("RISE", lambda each: f"{each['rise']:+.4f}"),
                (interval_heading(found), lambda each: interval(each["interval"])),
                (
                    "ACCURACY",
                    lambda each: (
                        "" if each["accuracy_drop"] is None else f"{-each['accuracy_drop']:+.4f}"
                    ),
                ),
            ),
        )


def _refuse_alone(ctx: click.Context) -> None:
    """Raises UsageError for an option that says nothing without --input."""
    for option in _OF_INPUT:
        if ctx.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{option} has no effect without --input")


def _read(path: Path) -> Any:
    """The values in a file, as a client takes them."""
    if path.suffix == ".npy":
        from lepton.cli.infer import read_npy

        return read_npy(path)
    if path.suffix == ".json" or str(path) == "-":
        return read_json(path)
    raise FileError(f"{named(path)} is neither .npy nor .json; save the values as one of them")


def _show_explanation(found: Explanation, output: str) -> None:
    if output != "table":
        show_plain(found.to_dict(), output)
        return
    click.echo(
        f"{printable(found.explained)}: output {found.output:.4f}, baseline {found.baseline:.4f}"
    )
    table(
        found.parts[:_PARTS_SHOWN],
        (
            ("PART", lambda part: part.name),
            ("VALUE", lambda part: part.value),
            ("ATTRIBUTION", lambda part: f"{part.attribution:+.4f}"),
            ("ERROR", lambda part: f"{part.error:.4f}"),
        ),
    )
    if len(found.parts) > _PARTS_SHOWN:
        note(f"the largest {_PARTS_SHOWN} of {len(found.parts)} parts; -o json has all")
    note(f"{found.endpoint} was asked about {found.asked} rows")


def _show_rows(rows: Sequence[Mapping[str, Any]], output: str) -> None:
    if output != "table":
        show_plain(rows, output)
        return
    for number, row in enumerate(rows):
        if number:
            click.echo()
        click.echo(
            f"row {row['row']}: predicted {printable(row['predicted'])}, true "
            f"{printable(row['truth'])}; output {row['output']:.4f}, baseline {row['baseline']:.4f}"
        )
        if row["parts"]:
            table(
                row["parts"][:_PARTS_SHOWN],
                (
                    ("PART", lambda part: part["name"]),
                    ("VALUE", lambda part: part["value"]),
                    ("ATTRIBUTION", lambda part: f"{part['attribution']:+.4f}"),
                ),
            )
    if rows and rows[0]["pixels"]:
        note("explanations.png has the images: `lepton model evaluation NAME -d FOLDER` fetches it")
