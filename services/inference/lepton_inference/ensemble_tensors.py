"""What is known of an ensemble's tensors from the models at both of their ends."""

from __future__ import annotations

from lepton_inference.ensemble import EnsembleInvalid, EnsembleStep
from lepton_inference.signature import Signature
from lepton_inference.tensors import TensorSpec


def add_step(tensors: dict[str, TensorSpec], step: EnsembleStep, signature: Signature) -> None:
    """Brings a step's inputs and outputs together with the tensors known so far.

    Args:
        tensors: By their names in the ensemble; added to.
        step: The step.
        signature: Of one of the models that may be asked at it.

    Raises:
        EnsembleInvalid: The model has other inputs or outputs than the step says, or a tensor
            cannot be all that is said of it: its datatype, its rank, or a dimension.
    """
    taken = [spec.name for spec in signature.inputs]
    if missing := sorted(set(taken).difference(step.inputs)):
        raise EnsembleInvalid(
            f"step '{step.endpoint}' does not feed the model's input '{missing[0]}'",
            step=step.endpoint,
        )
    for kind, mapping, specs in (
        ("input", step.inputs, signature.inputs),
        ("output", step.outputs, signature.outputs),
    ):
        known = {spec.name: spec for spec in specs}
        if unknown := sorted(mapping.keys() - known.keys()):
            raise EnsembleInvalid(
                f"step '{step.endpoint}' names the {kind} '{unknown[0]}'; the model has "
                f"{', '.join(known)}",
                step=step.endpoint,
            )
        for name, spec in known.items():
            if name in mapping:
                tensor = mapping[name]
                where = f"{kind} '{name}' of step '{step.endpoint}'"
                before = tensors.get(tensor)
                tensors[tensor] = _meet(tensor, before, spec, where)


def _meet(tensor: str, before: TensorSpec | None, spec: TensorSpec, where: str) -> TensorSpec:
    """A tensor that is ``before`` and also ``spec``; raises EnsembleInvalid if none can be."""
    if before is None:
        return TensorSpec(tensor, spec.datatype, spec.shape, spec.names)
    if before.datatype != spec.datatype:
        raise EnsembleInvalid(
            f"the tensor '{tensor}' is {before.datatype.name} and {where} is {spec.datatype.name}",
            tensor=tensor,
        )
    if len(before.shape) != len(spec.shape) or any(
        one != other and -1 not in (one, other)
        for one, other in zip(before.shape, spec.shape, strict=True)
    ):
        raise EnsembleInvalid(
            f"the tensor '{tensor}' has the shape {list(before.shape)} and {where} "
            f"{list(spec.shape)}",
            tensor=tensor,
        )
    shape = tuple(max(pair) for pair in zip(before.shape, spec.shape, strict=True))
    return TensorSpec(tensor, before.datatype, shape, before.names)
