"""What a job's process says when a phase begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from lepton_training.events import EventWriter
from lepton_training.job import Phase

log = logging.getLogger(__name__)


def enter(events: EventWriter, phase: Phase, begin: Mapping[Phase, float]) -> None:
    """Tells that ``phase`` begins.

    Args:
        begin: Progress of the whole job where each phase begins; kinds of jobs differ in it.
    """
    log.info("%s", phase.lower())
    events.write("phase", phase=phase, progress=begin[phase])
