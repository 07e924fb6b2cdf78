"""Names that a node and a job give themselves once: whole on disk, or not there."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lepton_training.bootstrap import _node
from lepton_training.worker.mesh_platform import _registration_id


@pytest.mark.parametrize("name", [_node, _registration_id])
def test_a_name_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Callable[[Path], str]
) -> None:
    """Jobs of half a node's name would be nobody's, and an empty id registers nothing."""
    with monkeypatch.context() as broken:

        def refuse(descriptor: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        broken.setattr("lepton_mesh.durable.os.fsync", refuse)
        with pytest.raises(OSError, match="Input/output"):
            name(tmp_path)
    given = name(tmp_path)
    assert re.fullmatch(r"(job-)?[0-9a-f]{32}", given)
    assert name(tmp_path) == given
