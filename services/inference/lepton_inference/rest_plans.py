"""The short way for REST: one raw tensor, after JSON that was seen before.

As :class:`lepton_inference.plans.Plans` does for gRPC: a client that asks the same thing of the
same model sends the same path and the same JSON each time, and only the raw tensor differs. What
they mean, and the answer's JSON, is remembered. Measured on an MLP, parsing and writing JSON
anew was most of what a request cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_inference.batch import Outcome
from lepton_inference.model import LoadedModel
from lepton_inference.rest_codec import Asked
from lepton_inference.signature import Checked, InferenceRequest, Tails
from lepton_inference.tensors import element_count
from lepton_inference.wire import raw_output

if TYPE_CHECKING:
    from lepton_inference.tracing import Sampler

HEADER_LENGTH = b"inference-header-content-length"
ENCODING = b"content-encoding"
Headers = dict[bytes, bytes]


@dataclass(slots=True)
class RestPlan:
    """What a request of that path and JSON means, and how its answer starts."""

    model: LoadedModel
    size: int
    """Bytes of the body."""
    start: int
    """Where the raw tensor begins in it."""
    rows: int
    tails: Tails
    output: int
    headers: list[tuple[bytes, bytes]]
    """The answer's."""
    head: bytes
    """The answer's JSON."""
    sampler: Sampler | None
    """Which of these requests are traced; None for none."""

    def response(self, outcome: Outcome) -> bytes:
        """The answer's body."""
        return self.head + raw_output(outcome, self.output, self.rows)


class RestPlans:
    """Plans by path and JSON. One for each workspace's set of models."""

    # Beyond, clients are sending what does not repeat, and remembering is of no use.
    _LIMIT = 1024
    _LONGEST_JSON = 2048
    """Bytes; so that nobody fills the memory with what precedes a tensor."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, bytes], RestPlan] = {}
        self._starts: dict[bytes, int] = {}
        """What a header says -> the length that it means, of those that have plans."""

    def clear(self) -> None:
        """Forgets everything; called when what a name means has changed."""
        self._plans.clear()
        self._starts.clear()

    def find(self, path: str, headers: Headers, body: bytes) -> RestPlan | None:
        """The plan for a request, if one like it was seen before."""
        start = self._starts.get(headers.get(HEADER_LENGTH, b""))
        if start is None or ENCODING in headers:
            return None
        plan = self._plans.get((path, body[:start]))
        # The JSON says how much follows it, and the general way what is wrong if that is not so.
        return plan if plan is not None and plan.size == len(body) else None

    def learn(
        self,
        path: str,
        headers: Headers,
        body: bytes,
        *,
        model: LoadedModel,
        asked: Asked,
        checked: Checked,
        outcome: Outcome,
        answer: bytes,
        json_length: int,
        sampler: Sampler | None = None,
    ) -> None:
        """Remembers a request that was answered with raw tensors, if of the common kind."""
        request = asked.request
        start = int(headers[HEADER_LENGTH])
        if ENCODING in headers or start > self._LONGEST_JSON or not _is_common(request, model):
            return
        raw = request.inputs[0].data
        if not isinstance(raw, memoryview) or len(raw) != len(body) - start:
            return
        if len(checked.outputs) != 1:
            return
        (index,) = checked.outputs
        spec, batch = model.signature.outputs[index], outcome[0]
        tail, view = spec.shape[1:], batch.views[index]
        if spec.datatype.itemsize == 0 or view is None or any(dim < 0 for dim in tail):
            return
        row = spec.datatype.itemsize * element_count(tail, spec.name)
        if len(view) != batch.rows * row or len(answer) != json_length + checked.rows * row:
            return  # the model does not keep the shape that it declares, or the answer is JSON
        if len(self._plans) >= self._LIMIT:
            self.clear()
        self._starts[headers[HEADER_LENGTH]] = start
        self._plans[path, body[:start]] = RestPlan(
            model=model,
            size=len(body),
            start=start,
            rows=checked.rows,
            tails=checked.tails,
            output=index,
            headers=raw_headers(json_length),
            head=answer[:json_length],
            sampler=sampler,
        )


def raw_headers(json_length: int) -> list[tuple[bytes, bytes]]:
    """The headers of an answer whose JSON is followed by raw tensors."""
    return [
        (b"content-type", b"application/octet-stream"),
        (HEADER_LENGTH, str(json_length).encode()),
    ]


def _is_common(request: InferenceRequest, model: LoadedModel) -> bool:
    """Whether it asks for nothing but that one tensor be run."""
    plain = InferenceRequest(
        request.model, request.version, request.inputs, request.outputs, owner=request.owner
    )
    return (
        request == plain
        and len(request.inputs) == 1
        and not request.shares_memory
        and model.signature.batched
        and model.signature.inputs[0].datatype.itemsize > 0
    )
