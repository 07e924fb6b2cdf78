"""Parameters of inference requests, the same over gRPC and REST.

A parameter to which the protocol gives a meaning is honoured or refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

from lepton_mesh.errors import InvalidArgument, Unimplemented


class ParameterUnsupported(Unimplemented):
    """A parameter asks for something that this server does not do."""

    reason = "PARAMETER_UNSUPPORTED"


class ParameterInvalid(InvalidArgument):
    reason = "PARAMETER_INVALID"


_NO_STATE = "the model keeps no state between requests"
_UNSUPPORTED = {
    "sequence_id": _NO_STATE,
    "sequence_start": _NO_STATE,
    "sequence_end": _NO_STATE,
    "shared_memory_region": "tensors travel in the message",
    "shared_memory_byte_size": "tensors travel in the message",
    "shared_memory_offset": "tensors travel in the message",
    "classification": "ask for the raw output and rank it",
}


def refuse_unsupported(parameters: Mapping[str, object]) -> None:
    """Raises ParameterUnsupported for a parameter that would otherwise be ignored in silence."""
    for name in parameters:
        why = _UNSUPPORTED.get(name)
        if why is not None:
            raise ParameterUnsupported(
                f"the parameter '{name}' is not supported: {why}", parameter=name
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


_LARGEST = 2**64 - 1
"""Of the protocol's numbers; JSON has larger ones, which no clock can hold."""


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
