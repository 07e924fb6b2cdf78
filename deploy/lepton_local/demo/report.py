"""What the demo tells people: steps on stderr, results on stdout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lepton_local.demo.job import Accuracies


class Report:
    """Writes as the job goes."""

    def step(self, text: str) -> None:
        """Says what begins now."""
        click.echo(f"==> {text}", file=sys.stderr)

    def fact(self, name: str, text: str) -> None:
        """States a result."""
        click.echo(f"{name:<10} {text}")

    def evaluation(self, evaluation: dict[str, Any]) -> None:
        """Prints per-class figures beside the confusion matrix."""
        per_class, matrix = evaluation["per_class"], evaluation["confusion_matrix"]
        heading = "".join(f"{int(figures['label']):>6}" for figures in per_class)
        click.echo(f"\nclass  precision  recall      f1  images   predicted:{heading}")
        for figures, row in zip(per_class, matrix, strict=True):
            counts = "".join(f"{int(count):>6}" for count in row)
            click.echo(
                f"{int(figures['label']):>5}  {figures['precision']:>9.4f}  "
                f"{figures['recall']:.4f}  {figures['f1']:.4f}  {int(figures['support']):>6}"
                f"             {counts}"
            )
        click.echo(
            f"\naccuracy   {evaluation['accuracy']:.4f} on {int(evaluation['examples']):,} "
            f"test images, macro F1 {evaluation['macro_f1']:.4f}"
        )

    def accuracies(self, trained: float, answers: Accuracies) -> None:
        """Prints the accuracy at the gateway beside the one measured in training."""
        click.echo("\naccuracy of the same test images")
        click.echo(f"  in training          {trained:.4f}")
        click.echo(
            f"  at the gateway, gRPC {answers.accuracy_grpc:.4f}  "
            f"({answers.requests_per_second:,.0f} requests/s, one image each)"
        )
        click.echo(f"  at the gateway, REST {answers.accuracy_rest:.4f}")
