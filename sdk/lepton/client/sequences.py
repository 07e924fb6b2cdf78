"""Requests to endpoints that remember: their place in a sequence, and how far to generate."""

from __future__ import annotations

from dataclasses import dataclass

from lepton.oip.v2 import open_inference_pb2 as pb

ROUTING_KEY_HEADER = "x-lepton-routing-key"
"""The gateway sends requests of one value to one instance, where their sequence is kept."""


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """A request's place in a sequence of the caller's."""

    id: int | str
    """Names it; not 0 or ""."""
    start: bool = False
    """Whether it begins here, whatever was before."""
    end: bool = False
    """Whether it ends here, and its state is given back."""

    def put_in(self, request: pb.ModelInferRequest) -> None:
        """Writes it to the request's parameters."""
        if isinstance(self.id, str):
            request.parameters["sequence_id"].string_param = self.id
        else:
            request.parameters["sequence_id"].int64_param = self.id
        request.parameters["sequence_start"].bool_param = self.start
        request.parameters["sequence_end"].bool_param = self.end


def routing(step: SequenceStep | None) -> tuple[tuple[str, str], ...]:
    """Metadata by which every request of the sequence reaches one instance."""
    # Metadata is ASCII, and any other text is an id too.
    return () if step is None else ((ROUTING_KEY_HEADER, ascii(step.id)),)


def limit(request: pb.ModelInferRequest, max_steps: int, end_value: float | None) -> None:
    """Writes how far to generate to the request's parameters."""
    if max_steps:
        request.parameters["max_steps"].int64_param = max_steps
    if isinstance(end_value, int):
        request.parameters["end_value"].int64_param = end_value
    elif end_value is not None:
        request.parameters["end_value"].double_param = end_value
