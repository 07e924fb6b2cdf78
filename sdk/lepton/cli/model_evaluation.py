"""``lepton model evaluation`` and ``compare``: how good a model is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from lepton.cli.completion import names_of
from lepton.cli.errors import InputError
from lepton.cli.output import Columns, counted, document_option, note, show_plain, table
from lepton.cli.session import client
from lepton.client import EvaluationError
from lepton.client.transfer import make_folder


@contextmanager
def readable(version: str) -> Iterator[None]:
    """Tells of a document that is not as ours are in one line: any job may have written it.

    What is shown of it is taken apart in the block, and nothing else is done there.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError):
        raise EvaluationError(
            f"the evaluation of {version} cannot be shown: it is not as ours are; `-o json` shows "
            "it as it is"
        ) from None


@click.command()
@click.argument("name", shell_complete=names_of("models"))
@click.option(
    "-d",
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where to write the pictures and all other files that are kept beside the model.",
)
@document_option
@click.pass_context
def evaluation(ctx: click.Context, name: str, directory: Path | None, output: str) -> None:
    """Show how good a version is (NAME, NAME/3, NAME/ALIAS): figures, intervals, slices."""
    with client(ctx) as lepton:
        version = lepton.models.version(name)
        found = lepton.models.evaluation(version)
        if directory is not None:
            make_folder(directory)
            for attachment in sorted(version.attachments):
                lepton.models.fetch(version, attachment, directory / _plain(attachment))
            note(f"wrote {counted(len(version.attachments), 'file')} to {directory}")
    if output != "table":
        show_plain(found, output)
        return
    with readable(version.name):
        heading = interval_heading(found)
        intervals = found.get("intervals", {})
        table(
            sorted(version.metrics.items()),
            (
                ("FIGURE", lambda figure: figure[0]),
                ("VALUE", lambda figure: f"{figure[1]:.4f}"),
                (heading, lambda figure: interval(intervals.get(figure[0]))),
            ),
        )
        if found.get("slices"):
            click.echo()
            table(found["slices"], _slice_columns(found["slices"], heading))


@click.command()
@click.argument("first", shell_complete=names_of("models"))
@click.argument("second", shell_complete=names_of("models"))
@click.option(
    "--resamples",
    type=click.IntRange(100, 100_000),
    default=2000,
    show_default=True,
    help="Samples of the paired bootstrap.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.999),
    default=0.95,
    show_default=True,
    help="Of the intervals; one is better where chance alone makes such a difference less often "
    "than the rest.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the samples."
)
@click.option("--fail-if-worse", is_flag=True, help="End with 1 where SECOND is worse in a figure.")
@document_option
@click.pass_context
def compare(
    ctx: click.Context,
    first: str,
    second: str,
    resamples: int,
    confidence: float,
    seed: int,
    fail_if_worse: bool,
    output: str,
) -> None:
    """Test whether version SECOND is better than FIRST on the rows of their test split.

    Accuracy by McNemar's exact test, other figures by the paired bootstrap. Versions are NAME,
    NAME/3 or NAME/ALIAS, of any models that were tested on the same rows.
    """
    with client(ctx) as lepton:
        versions = [lepton.models.version(name) for name in (first, second)]
        found = lepton.models.compare(
            *versions, confidence=confidence, resamples=resamples, seed=seed
        )
    names = {"first": versions[0].name, "second": versions[1].name}
    if output == "table":
        table(
            found.differences,
            (
                ("FIGURE", lambda each: each.metric),
                ("FIRST", lambda each: f"{each.first:.4f}"),
                ("SECOND", lambda each: f"{each.second:.4f}"),
                ("DIFFERENCE", lambda each: f"{each.difference:+.4f}"),
                (f"{_percent(confidence)} INTERVAL", lambda each: interval(each.interval)),
                ("P", lambda each: f"{each.p_value:.4f}"),
                ("TEST", lambda each: each.test),
                ("BETTER", lambda each: each.better),
            ),
        )
        told = f"on the same {found.rows} test rows"
        if found.only_first_right is not None:
            told += (
                f"; right where the other is wrong: first {found.only_first_right}, second "
                f"{found.only_second_right}"
            )
        note(f"first {names['first']}, second {names['second']}, {told}")
    else:
        show_plain({**names, **found.to_dict()}, output)
    if fail_if_worse and any(each.better == "first" for each in found.differences):
        ctx.exit(1)


def _slice_columns(slices: Sequence[Mapping[str, Any]], heading: str) -> Columns:
    """One figure with its interval: the accuracy of classes, the RMSE of numbers."""
    figure = "test_accuracy" if "test_accuracy" in slices[0]["metrics"] else "test_rmse"
    return (
        ("COLUMN", lambda part: part["column"]),
        ("VALUE", lambda part: part["value"]),
        ("ROWS", lambda part: f"{int(part['rows'])}{' (few)' if part['small'] else ''}"),
        (figure.upper(), lambda part: f"{part['metrics'][figure]:.4f}"),
        (heading, lambda part: interval(part["intervals"].get(figure))),
    )


def interval(ends: Sequence[float] | None) -> str:
    """The ends of an interval, for people; empty where there is none."""
    return "" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def interval_heading(found: Mapping[str, Any]) -> str:
    """The heading of a column of intervals, with their confidence."""
    return f"{_percent(found.get('bootstrap', {}).get('confidence', 0.95))} INTERVAL"


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


def _plain(attachment: str) -> str:
    """A file's name, once more checked: a server is not trusted with our file system."""
    if attachment in {"", ".", ".."} or Path(attachment).name != attachment:
        raise InputError(
            f"the version has an attachment '{attachment}', which is no file's name",
            "EVALUATION_UNAVAILABLE",
        )
    return attachment
