"""What endpoints may be made of, and which of them others are made of.

FailedPrecondition  <- EndpointInUse    an ensemble asks it
"""

from __future__ import annotations

from lepton_inference.endpoint import Endpoint, EndpointNotFound, Shadow, check_targets
from lepton_inference.ensemble import EnsembleInvalid, check_depth, check_ensemble
from lepton_inference.ports import Endpoints
from lepton_inference.settings import EndpointInvalid, ModelSettings, check_model_settings
from lepton_mesh.errors import FailedPrecondition

_PAGE = 1000


class EndpointInUse(FailedPrecondition):
    reason = "ENDPOINT_IN_USE"


def check_served(endpoint: Endpoint) -> None:
    """Raises EndpointInvalid or EnsembleInvalid for what cannot be served, whatever the models."""
    if endpoint.ensemble is None:
        check_targets([(target.wanted, target.weight) for target in endpoint.targets])
        check_model_settings(endpoint.settings)
        if endpoint.shadow is not None:
            _check_shadow(endpoint, endpoint.shadow)
        return
    if endpoint.targets:
        raise EndpointInvalid(
            "an endpoint has targets or an ensemble, not both; leave out one of them"
        )
    if endpoint.shadow is not None:
        raise EndpointInvalid(
            "an ensemble has no versions; give the endpoints that are its steps their shadows",
            field="shadow",
        )
    if endpoint.settings != ModelSettings():
        raise EndpointInvalid(
            "an ensemble runs nothing itself: settings of batching, execution and the like have no "
            "effect on it; set them on the endpoints that are its steps"
        )
    check_ensemble(endpoint.ensemble)


def _check_shadow(endpoint: Endpoint, shadow: Shadow) -> None:
    if endpoint.settings.sequences is not None:
        raise EndpointInvalid(
            "a shadow sees a share of the requests, and a model with sequences needs all of them; "
            "leave out one of them",
            field="shadow",
        )
    if shadow.version.name in [target.version.name for target in endpoint.targets]:
        raise EndpointInvalid(
            f"the shadow '{shadow.version.name}' is a target too, and would be compared with "
            "itself",
            field="shadow",
        )


async def check_steps(record: Endpoints, endpoint: Endpoint) -> None:
    """Raises EnsembleInvalid for steps that do not exist, end in the ensemble itself, or nest too
    deep."""

    heights: dict[str, int] = {}

    async def height(at: Endpoint, path: tuple[str, ...]) -> int:
        """Ensembles one within another, from ``at`` down."""
        if at.ensemble is None:
            return 0
        for step in at.ensemble.endpoints:
            if step in path:
                raise EnsembleInvalid(
                    f"the ensemble would ask itself: {' > '.join((*path, step))}", step=step
                )
            if step in heights:
                continue
            try:
                asked = await record.get(endpoint.workspace, step)
            except EndpointNotFound:
                raise EnsembleInvalid(
                    f"step '{step}': there is no such endpoint; create it first", step=step
                ) from None
            heights[step] = await height(asked, (*path, step))
        return check_depth(1 + max(heights[step] for step in at.ensemble.endpoints))

    await height(endpoint, (endpoint.id,))


async def users_of(
    record: Endpoints, workspace: str, endpoint_id: str, *, loaded: bool
) -> list[str]:
    """The ids of the ensembles that ask the endpoint; with ``loaded`` those not unloaded."""
    found, after = [], ""
    while page := await record.page(workspace, after, _PAGE):
        found += [
            one.id
            for one in page
            if one.ensemble is not None
            and endpoint_id in one.ensemble.endpoints
            and not (loaded and one.unloaded)
        ]
        after = page[-1].id
    return found


async def check_unused(
    record: Endpoints, workspace: str, endpoint_id: str, *, loaded: bool = False
) -> None:
    """Raises EndpointInUse while an ensemble, with ``loaded`` one not unloaded, asks the
    endpoint."""
    users = await users_of(record, workspace, endpoint_id, loaded=loaded)
    if users:
        them = "it" if len(users) == 1 else "them"
        raise EndpointInUse(
            f"'endpoints/{endpoint_id}' is a step of {', '.join(users)}; "
            f"{'unload' if loaded else 'delete or change'} {them} first",
            dependents=", ".join(users),
        )
