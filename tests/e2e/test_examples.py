"""``make examples``: one of the documented examples, on a small series."""

from __future__ import annotations

import math
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from lepton.client import Client, load_profile
from lepton_local.examples import running
from lepton_local.examples.catalogue import TEMPERATURES, Example
from tests.e2e.conftest import Command

pytestmark = pytest.mark.e2e

SPECS = Path(__file__).parents[2] / "docs" / "examples"


def test_an_example_has_the_same_figure_at_the_gateway(lepton: Command, tmp_path: Path) -> None:
    """From its file and the spec that users copy; no endpoint is left."""
    noise = np.random.default_rng(0).normal(size=1000)
    lines = [
        f"{date(1981, 1, 1) + timedelta(day)},{10 + 5 * math.sin(day / 58) + noise[day]:.1f}"
        for day in range(1000)
    ]
    (tmp_path / "temperatures").mkdir()
    (tmp_path / "temperatures" / TEMPERATURES.files[0]).write_text("\n".join(["Date,Temp", *lines]))
    said: list[str] = []

    with Client(load_profile("local", lepton.config)) as client:
        result = running.run(
            client, Example("temperatures", TEMPERATURES), SPECS, tmp_path, said.append
        )
        endpoints = [endpoint.name for endpoint in client.endpoints.list()]

    assert result.status == "passed", result.remarks()
    (run,) = result.runs
    assert run.rows == 730
    assert run.at_gateway == {"test_rmse": pytest.approx(run.metrics["test_rmse"], rel=1e-4)}
    assert run.parity_max_abs_error < 1e-3
    assert "temperatures: training series_rnn, seed 0" in said
    assert "endpoints/temperatures" not in endpoints
