"""The model repository as the protocol's messages, in the dialects of Triton and of KServe.

KServe numbers ``model_name`` 1 where Triton has ``repository_name`` 1 and ``model_name`` 2, and
its responses say ``model_name`` (1) and ``isLoaded`` or ``isUnloaded`` (2) where Triton's are
empty. So a lone field 1 is the model's name, and the answer carries KServe's fields, which
Triton's clients skip as unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from google.protobuf.message import Message

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.model_config import parse_config
from lepton_inference.parameters import ParameterInvalid, ParameterUnsupported
from lepton_inference.repository import Change, Repository
from lepton_inference.serving import Admitted, Served, ServingState
from lepton_inference.wire import varint
from lepton_mesh.caller import set_caller

NOT_LOADED = "not loaded"
"""What RepositoryIndex says of a model in the registry that no endpoint serves."""
_CONFIG = "config"
_DEPENDENTS = "unload_dependents"
_FILE = "file:"


class RepositoryMethods:
    """RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload.

    Args:
        repository: None for a server whose models are given to it: it has the index only.
    """

    def __init__(self, repository: Repository | None) -> None:
        self.handlers: dict[str, tuple[type[Message], Callable[[Admitted, Any], Any]]] = {
            "RepositoryIndex": (pb.RepositoryIndexRequest, self._index),
        }
        self.extensions: tuple[str, ...] = ()
        """Their names for ServerMetadata."""
        self._repository = repository
        if repository is not None:
            self.extensions = ("model_repository", "model_repository(unload_dependents)")
            self.handlers |= {
                "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, self._load),
                "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, self._unload),
            }

    async def _index(
        self, admitted: Admitted, request: pb.RepositoryIndexRequest
    ) -> pb.RepositoryIndexResponse:
        _refuse_repository(request.repository_name)
        endpoints = admitted.workspace.endpoints
        models = [
            entry
            for served in endpoints.values()
            if served.standing()[0] is ServingState.READY or not request.ready
            for entry in _entries(served)
        ]
        if self._repository is not None and not request.ready:
            found = await _as_caller(admitted, self._repository.loadable(set(endpoints)))
            models += [
                pb.RepositoryIndexResponse.ModelIndex(
                    name=one.name,
                    version=one.version,
                    state=ServingState.UNAVAILABLE.value,
                    reason=NOT_LOADED,
                )
                for one in found
            ]
        return pb.RepositoryIndexResponse(models=models)

    async def _load(
        self, admitted: Admitted, request: pb.RepositoryModelLoadRequest
    ) -> pb.RepositoryModelLoadResponse:
        assert self._repository is not None  # noqa: S101  or there is no such handler
        name = _model_name(request)
        change = _change(request, name)
        await _as_caller(admitted, self._repository.load(admitted.caller, name, change))
        response = pb.RepositoryModelLoadResponse()
        response.MergeFromString(_kserve_answer(name))
        return response

    async def _unload(
        self, admitted: Admitted, request: pb.RepositoryModelUnloadRequest
    ) -> pb.RepositoryModelUnloadResponse:
        assert self._repository is not None  # noqa: S101  or there is no such handler
        name = _model_name(request)
        for key, value in request.parameters.items():
            if key != _DEPENDENTS:
                raise _unsupported(key, "unloading knows 'unload_dependents' only")
            if value.WhichOneof("parameter_choice") != "bool_param":
                raise ParameterInvalid(f"the parameter '{key}' takes a truth value", parameter=key)
        dependents = any(value.bool_param for value in request.parameters.values())
        await _as_caller(
            admitted, self._repository.unload(admitted.caller, name, dependents=dependents)
        )
        response = pb.RepositoryModelUnloadResponse()
        response.MergeFromString(_kserve_answer(name))
        return response


async def _as_caller(admitted: Admitted, work: Awaitable[Any]) -> Any:
    """The result of work for which other services are asked with the caller's own token."""

    async def run() -> Any:
        set_caller(admitted.caller)
        return await work

    # A task has a context of its own, so that the caller is nobody else's.
    return await asyncio.create_task(run())


def _entries(served: Served) -> Iterator[pb.RepositoryIndexResponse.ModelIndex]:
    state, reason = served.standing()
    for version in [model.source.version for model in served.models] or [""]:
        yield pb.RepositoryIndexResponse.ModelIndex(
            name=served.name, version=version, state=state.value, reason=reason
        )


def _model_name(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    if not request.model_name:
        return request.repository_name
    _refuse_repository(request.repository_name)
    return request.model_name


def _refuse_repository(name: str) -> None:
    if name:
        raise _unsupported("repository_name", "this server has one repository; leave it empty")


def _change(request: pb.RepositoryModelLoadRequest, name: str) -> Change | None:
    """What the parameters ask to be set; None for nothing."""
    for key in request.parameters:
        if key.startswith(_FILE):
            raise _unsupported(
                key, "models come from the registry; register the file there, then load its name"
            )
        if key != _CONFIG:
            raise _unsupported(key, "loading knows 'config' only")
    if _CONFIG not in request.parameters:
        return None
    value = request.parameters[_CONFIG]
    if value.WhichOneof("parameter_choice") != "string_param":
        raise ParameterInvalid("the parameter 'config' takes JSON as text", parameter=_CONFIG)
    return parse_config(value.string_param, name)


def _unsupported(name: str, why: str) -> ParameterUnsupported:
    return ParameterUnsupported(f"'{name}' is not supported: {why}", parameter=name)


def _kserve_answer(name: str) -> bytes:
    """KServe's ``model_name`` and ``isLoaded`` or ``isUnloaded``, serialized."""
    encoded = name.encode()
    return b"\x0a" + varint(len(encoded)) + encoded + b"\x10\x01"
