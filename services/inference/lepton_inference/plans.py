"""The short way of a gRPC request: what nearly every client sends again and again.

That is one input, its content raw, no request id. Such a message ends with its raw tensor, so
everything before that - model, shape, outputs - is byte for byte the same in the next request,
and a dictionary remembers what it meant. Protobuf is parsed front to back, so equal bytes before
an equally long last field mean an equal message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.batch import Batch, Outcome
from lepton_inference.model import LoadedModel
from lepton_inference.signature import Tails
from lepton_inference.tensors import element_count
from lepton_inference.wire import FRAME, RAW_OUTPUT_TAG, raw_output, response_head, varint

if TYPE_CHECKING:
    from lepton_inference.tracing import Sampler

_RAW_INPUT_TAG = 0x3A  # ModelInferRequest.raw_input_contents: field 7, length-delimited


@dataclass(slots=True)
class Plan:
    """What a request that starts with certain bytes means, and how its answer starts."""

    model: LoadedModel
    size: int
    """Bytes of the frame."""
    start: int
    """Where the raw tensor begins in the frame."""
    rows: int
    tails: Tails
    output: int
    output_bytes: int
    """Bytes of a row of the output."""
    head: bytes
    """The answer's frame up to the raw output."""
    sampler: Sampler | None = None
    """Which of these requests are traced; None for none."""

    def response(self, outcome: Outcome) -> bytes:
        """The answer, framed."""
        return self.head + raw_output(outcome, self.output, self.rows)


class Plans:
    """Plans by the bytes that requests start with. One for each workspace's set of models."""

    # Beyond, clients are sending what does not repeat, and remembering is of no use.
    _LIMIT = 1024
    _LONGEST_START = 1024
    """Bytes; so that nobody fills the memory with what precedes a tensor."""

    def __init__(self) -> None:
        self._by_start: dict[bytes, Plan] = {}
        self._starts: dict[int, int] = {}
        """Length of a frame -> where the raw tensor begins in the last plan of that length."""

    def clear(self) -> None:
        """Forgets everything; called when what a name means has changed."""
        self._by_start.clear()
        self._starts.clear()

    def find(self, body: bytes) -> Plan | None:
        """The plan for a framed request, if one like it was seen before."""
        size = len(body)
        start = self._starts.get(size)
        if start is None:
            return None
        plan = self._by_start.get(body[:start])
        # A start says how much follows it. Of a body that lies about that, the rest would shift
        # the rows of every request it shares a batch with.
        return plan if plan is not None and plan.size == size else None

    def learn(
        self,
        body: bytes,
        message: pb.ModelInferRequest,
        model: LoadedModel,
        batch: Batch,
        sampler: Sampler | None = None,
    ) -> None:
        """Remembers a framed request that was answered from ``batch``, if of the common kind."""
        plan = _plan(body, message, model)
        if plan is None or plan.start > self._LONGEST_START:
            return
        view = batch.views[plan.output]
        if view is None or len(view) != batch.rows * plan.output_bytes:
            return  # the model does not keep the shape that it declares
        plan.sampler = sampler
        if len(self._by_start) >= self._LIMIT:
            self.clear()
        self._by_start[body[: plan.start]] = plan
        self._starts[len(body)] = plan.start


def _plan(body: bytes, message: pb.ModelInferRequest, model: LoadedModel) -> Plan | None:
    signature = model.signature
    outputs = signature.select([output.name for output in message.outputs])
    if (
        message.id
        or message.parameters
        or len(message.raw_input_contents) != 1
        or len(message.inputs) != 1  # another may be in shared memory
        or len(outputs) != 1
        or any(output.parameters for output in message.outputs)
        or not signature.batched
        or signature.inputs[0].datatype.itemsize == 0
    ):
        return None
    output = signature.outputs[outputs[0]]
    tail = output.shape[1:]
    if output.datatype.itemsize == 0 or any(dim < 0 for dim in tail):
        return None
    # The raw tensor must be the message's last field, and what precedes it all the rest.
    raw = message.raw_input_contents[0]
    start = len(body) - len(raw)
    mark = bytes((_RAW_INPUT_TAG,)) + varint(len(raw))
    if body[:1] != b"\0" or not body[:start].endswith(mark) or body[start:] != raw:
        return None
    rest = pb.ModelInferRequest()
    try:
        rest.ParseFromString(body[FRAME : start - len(mark)])
    except DecodeError:
        return None
    expected = pb.ModelInferRequest()
    expected.CopyFrom(message)
    expected.ClearField("raw_input_contents")
    if rest != expected:
        return None
    shape = tuple(message.inputs[0].shape)
    rows = shape[0]
    size = output.datatype.itemsize * element_count(tail, output.name)
    head = response_head(model, ((rows, *tail),), outputs)
    head += RAW_OUTPUT_TAG + varint(rows * size)
    length = len(head) + rows * size
    return Plan(
        model=model,
        size=len(body),
        start=start,
        rows=rows,
        tails=(shape[1:],),
        output=outputs[0],
        output_bytes=size,
        head=b"\0" + length.to_bytes(4, "big") + head,
    )
