"""Parameters of inference requests, the same over gRPC and REST.

A parameter to which the protocol gives a meaning is honoured or refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lepton_mesh.errors import InvalidArgument, Unimplemented


class ParameterUnsupported(Unimplemented):
    """A parameter asks for something that this server does not do."""

    reason = "PARAMETER_UNSUPPORTED"


class ParameterInvalid(InvalidArgument):
    reason = "PARAMETER_INVALID"


SequenceId = int | str
"""7 and "7" are different sequences, as in Triton."""

_LARGEST = 2**64 - 1
"""Of the protocol's numbers; JSON has larger ones, which no clock can hold."""
_LONGEST_ID = 128
"""Characters."""


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """A request's place in a sequence."""

    id: SequenceId
    start: bool
    """Whether the sequence begins with it, from a state of zeros, whatever was before."""
    end: bool
    """Whether the sequence ends with it, and is forgotten."""


@dataclass(frozen=True, slots=True)
class Generation:
    """How far a model that feeds its outputs back is to go."""

    max_steps: int = 0
    """0 for as many as the endpoint allows."""
    end_value: float | None = None
    """Stop after the step whose first fed-back output is this value; None for none."""
    empty_final: bool = False
    """Whether a response without outputs is to follow the last step's."""


_REGION = "shared_memory_region"
_SIZE = "shared_memory_byte_size"
_OFFSET = "shared_memory_offset"
_SHARED = frozenset({_REGION, _SIZE, _OFFSET})
_UNSUPPORTED = {
    "classification": "it belongs to a requested output",
}


def refuse_unsupported(parameters: Mapping[str, object]) -> None:
    """Raises ParameterUnsupported for a parameter that would otherwise be ignored in silence."""
    for name in parameters:
        why = _UNSUPPORTED.get(name)
        if why is not None:
            raise ParameterUnsupported(
                f"the parameter '{name}' is not supported: {why}", parameter=name
            )


def classes_of(output: str, parameters: Mapping[str, object]) -> int:
    """How many of an output's largest values are wanted; 0 for the output itself.

    Raises:
        ParameterInvalid: It is not a whole number from 0.
    """
    count = parameters.get("classification", 0)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ParameterInvalid(
            f"the parameter 'classification' of output '{output}' is {count!r}; it takes the "
            "number of classes wanted",
            parameter="classification",
        )
    return count


@dataclass(frozen=True, slots=True)
class SharedPart:
    """Where in shared memory a tensor lies."""

    region: str
    """Its name among the caller's regions."""
    offset: int
    """From the region's begin, bytes."""
    size: int
    """Bytes."""

    def parameters(self) -> dict[str, str | int]:
        """As a response says it of an output."""
        said: dict[str, str | int] = {_REGION: self.region, _SIZE: self.size}
        if self.offset:
            said[_OFFSET] = self.offset
        return said


def shared_part_of(parameters: Mapping[str, object]) -> SharedPart | None:
    """Where the parameters of an input or a requested output put it; None if in the message.

    Raises:
        ParameterInvalid: They do so incompletely.
    """
    if _SHARED.isdisjoint(parameters):
        return None
    region = parameters.get(_REGION)
    if not isinstance(region, str) or not region or _SIZE not in parameters:
        raise ParameterInvalid(
            f"a tensor in shared memory has the parameters '{_REGION}', a name, and '{_SIZE}'; "
            f"'{_OFFSET}' may be left out",
            parameter=_REGION,
        )
    size = _natural(parameters, _SIZE, "a number of bytes")
    return SharedPart(region, _natural(parameters, _OFFSET, "a number of bytes"), size)


def refuse_shared_memory(parameters: Mapping[str, object]) -> None:
    """Raises ParameterInvalid where the parameters of a whole request name shared memory."""
    for name in _SHARED.intersection(parameters):
        raise ParameterInvalid(
            f"'{name}' is a parameter of an input or of a requested output", parameter=name
        )


def timeout_of(parameters: Mapping[str, object]) -> float | None:
    """Triton's parameter ``timeout``, microseconds, in seconds; None if absent or 0."""
    microseconds = _natural(parameters, "timeout", "microseconds")
    return microseconds / 1e6 if microseconds else None


def priority_of(parameters: Mapping[str, object]) -> int:
    """Triton's parameter ``priority``: a level, 1 being served first; 0 for the default."""
    return _natural(parameters, "priority", "a level, 1 being served first")


def routing_key_of(parameters: Mapping[str, object]) -> str:
    """The parameter ``routing_key``: requests of one key go to one version; "" if absent."""
    value = parameters.get("routing_key", "")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ParameterInvalid(
            f"the parameter 'routing_key' is {value!r}; it takes text or a whole number",
            parameter="routing_key",
        )
    return str(value)


def sequence_of(parameters: Mapping[str, object]) -> SequenceStep | None:
    """Triton's ``sequence_id``, ``sequence_start`` and ``sequence_end``.

    None without an id, which 0 and "" are as well.
    """
    id_ = parameters.get("sequence_id", 0)
    if isinstance(id_, bool) or not (
        (isinstance(id_, int) and 0 <= id_ <= _LARGEST)
        or (isinstance(id_, str) and len(id_) <= _LONGEST_ID)
    ):
        raise ParameterInvalid(
            f"the parameter 'sequence_id' is {str(id_)[:_LONGEST_ID]!r}; it takes a whole number "
            f"of 64 bits or text of at most {_LONGEST_ID} characters",
            parameter="sequence_id",
        )
    start, end = flag_of(parameters, "sequence_start"), flag_of(parameters, "sequence_end")
    if id_:
        return SequenceStep(id_, start, end)
    if start or end:
        raise ParameterInvalid(
            "sequence_start and sequence_end need a 'sequence_id' other than 0 and \"\"",
            parameter="sequence_id",
        )
    return None


def generation_of(parameters: Mapping[str, object]) -> Generation:
    """``max_steps``, ``end_value``, and Triton's ``triton_enable_empty_final_response``."""
    end_value = parameters.get("end_value")
    if end_value is not None and (
        isinstance(end_value, bool)
        or not isinstance(end_value, (int, float))
        or not -_LARGEST <= end_value <= _LARGEST
    ):
        raise ParameterInvalid(
            f"the parameter 'end_value' is {end_value!r}; it takes a number of at most 64 bits",
            parameter="end_value",
        )
    if str(parameters.get("max_steps")) == "0":
        raise ParameterInvalid(
            "the parameter 'max_steps' is 0; it takes a number of steps from 1, and without it the "
            "endpoint's own holds",
            parameter="max_steps",
        )
    return Generation(
        max_steps=_natural(parameters, "max_steps", "a number of steps"),
        end_value=end_value,
        empty_final=flag_of(parameters, "triton_enable_empty_final_response"),
    )


def flag_of(parameters: Mapping[str, object], name: str) -> bool:
    """A parameter that is true or false; false if absent."""
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise ParameterInvalid(
            f"the parameter '{name}' is {value!r}; it takes true or false", parameter=name
        )
    return value


def _natural(parameters: Mapping[str, object], name: str, what: str) -> int:
    """A whole number from 0, as a number or as text; 0 if absent."""
    value = parameters.get(name)
    if value is None:
        return 0
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if not 0 <= number <= _LARGEST:
        raise ParameterInvalid(
            f"the parameter '{name}' is {value!r}; it takes {what}", parameter=name
        )
    return number
