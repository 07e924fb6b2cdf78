"""The REST half of the Open Inference Protocol: paths, JSON, and the binary tensor extension.

Errors are ``{"error": "..."}`` with the status of lepton_mesh.errors.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference import (
    rest_codec,
    rest_generate,
    rest_json,
    rest_settings,
    rest_shared_memory,
)
from lepton_inference.framing import inflate
from lepton_inference.gate import Gate
from lepton_inference.model import Gone, LoadedModel
from lepton_inference.open_inference import SERVICES, OpenInference
from lepton_inference.parameters import ParameterInvalid
from lepton_inference.rest_generate import EXTENSION, EventsAsked
from lepton_inference.rest_plans import HEADER_LENGTH, raw_headers
from lepton_inference.serving import Admitted, EndpointNotReady
from lepton_inference.shared_tensors import infer
from lepton_mesh.errors import InvalidArgument, LeptonError, NotFound

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
Headers = dict[bytes, bytes]

_JSON = [(b"content-type", b"application/json")]
_SHORT_JSON = 64 << 10
"""Bytes of the JSON that describes a region, and more than enough."""


class PathUnknown(NotFound):
    reason = "PATH_UNKNOWN"


class MethodNotAllowed(InvalidArgument):
    """Answered with 405, which the catalogue's gRPC-shaped table has no kind for."""

    reason = "METHOD_NOT_ALLOWED"


class _Route(NamedTuple):
    verb: str
    rpc: str
    """The gRPC method that it stands for, which is what the gate is asked about."""
    handler: Callable[[Admitted, _Target], Awaitable[Answer | EventsAsked]]


class _Target(NamedTuple):
    model: str
    version: str
    body: bytes
    gone: Gone | None
    """Says whether the caller went away, while it waits."""


class Rest:
    """Answers REST requests."""

    def __init__(
        self,
        protocol: OpenInference,
        gate: Gate,
        max_body_bytes: int,
        max_json_bytes: int = 8 << 20,
    ) -> None:
        self._protocol = protocol
        self._gate = gate
        self._limit = max_body_bytes
        self._json_limit = max_json_bytes
        trace = tuple(_Route(verb, "TraceSetting", self._trace) for verb in ("GET", "POST"))
        log = tuple(_Route(verb, "LogSettings", self._log) for verb in ("GET", "POST"))
        self._routes: dict[str, tuple[_Route, ...]] = {
            "": (_Route("GET", "ServerMetadata", self._server_metadata),),
            "health/live": (_Route("GET", "ServerLive", self._live),),
            "health/ready": (_Route("GET", "ServerReady", self._ready),),
            "models": (_Route("GET", "RepositoryIndex", self._models),),
            "models/stats": (_Route("GET", "ModelStatistics", self._statistics),),
            "models/*": (_Route("GET", "ModelMetadata", self._metadata),),
            "models/*/ready": (_Route("GET", "ModelReady", self._model_ready),),
            "models/*/config": (_Route("GET", "ModelConfig", self._config),),
            "models/*/stats": (_Route("GET", "ModelStatistics", self._statistics),),
            "models/*/generate": (_Route("POST", "ModelInfer", self._generate),),
            "models/*/generate_stream": (_Route("POST", "ModelStreamInfer", self._stream),),
            "models/*/trace/setting": trace,
            "trace/setting": trace,
            "logging": log,
            "repository/index": (_Route("POST", "RepositoryIndex", self._index),),
            "repository/models/*/load": (_Route("POST", "RepositoryModelLoad", self._load),),
            "repository/models/*/unload": (_Route("POST", "RepositoryModelUnload", self._unload),),
        }
        """By path below /v2, a model's name as an asterisk and its version left out."""
        protocol.add_extension(EXTENSION)

    async def answer(
        self, verb: str, path: str, headers: Headers, body: bytes, gone: Gone | None = None
    ) -> Answer | EventsAsked:
        """Answers one request.

        One whose answers are events is handed back, taken apart.

        Raises:
            CallerGone: ``gone`` said so while an inference waited.
            LeptonError: To be answered by :meth:`error`.
        """
        if path.rstrip("/") != "/v2" and not path.startswith("/v2/"):
            raise PathUnknown(f"there is nothing at {path}; the protocol begins at /v2")
        rest = path[len("/v2") :].strip("/")
        encoding = headers.get(b"content-encoding", b"").decode("latin-1")
        model, version, pattern = _taken_apart(rest)
        if pattern == "models/*/infer":
            if verb != "POST":
                return _not_allowed("POST")
            admitted = self._gate.known(headers) or await self._admit("ModelInfer", headers)
            content = body
            if encoding:
                # zlib lets others run meanwhile, and a little may become much.
                content = await asyncio.to_thread(inflate, body, encoding, self._limit)
            target = _Target(model, version, content, gone)
            return await self._infer(admitted, path, target, headers)
        if (asked := rest_shared_memory.parse(rest)) is not None:
            return await self._shared_memory(asked, verb, headers, body)
        routes = self._routes.get(pattern, ())
        if version and pattern not in _VERSIONED:
            routes = ()  # what is set for a model is set for all its versions
        if not routes:
            raise PathUnknown(f"there is nothing at {path}", path=path)
        route = next((route for route in routes if route.verb == verb), None)
        if route is None:
            return _not_allowed(", ".join(route.verb for route in routes))
        admitted = await self._admit(route.rpc, headers)
        content = body
        if encoding:
            content = await asyncio.to_thread(inflate, body, encoding, self._limit)
        rest_codec.check_json_size(len(content), self._json_limit)
        return await route.handler(admitted, _Target(model, version, content, gone))

    def error(self, error: LeptonError) -> Answer:
        """The answer that carries ``error``."""
        body = json.dumps(rest_json.failure(error)).encode()
        headers = _JSON
        if error.wire.retryable:
            # Whole seconds are all that the header can say (RFC 9110, 10.2.3).
            seconds = max(1, math.ceil(error.retry_after_seconds))
            headers = [*_JSON, (b"retry-after", str(seconds).encode())]
        return error.wire.http_status, headers, body

    async def _admit(self, rpc: str, headers: Headers) -> Admitted:
        return await self._gate.admit(f"/{SERVICES[0]}/{rpc}", headers)

    async def _infer(
        self, admitted: Admitted, path: str, target: _Target, headers: Headers
    ) -> Answer:
        served = admitted.workspace.find(target.model)
        length = headers.get(HEADER_LENGTH)
        asked = rest_codec.decode(
            target.model, target.version, length, target.body, self._json_limit
        )
        asked.request.owner = admitted.caller.subject
        model = served.route(asked.request)
        checked, outcome, placed = await infer(
            self._protocol.shared, admitted, model, asked.request, target.gone
        )
        answer, json_length = rest_codec.encode(model, asked, checked, outcome, placed)
        if json_length is None:
            return 200, _JSON, answer
        if length is not None and isinstance(model, LoadedModel) and served.always(model):
            admitted.workspace.rest_plans.learn(
                path,
                headers,
                target.body,
                model=model,
                asked=asked,
                checked=checked,
                outcome=outcome,
                answer=answer,
                json_length=json_length,
                sampler=admitted.workspace.tracing.sampler(target.model),
            )
        return 200, raw_headers(json_length), answer

    async def _generate(self, admitted: Admitted, target: _Target) -> Answer:
        model, request = rest_generate.decode(admitted, target.model, target.version, target.body)
        checked, outcome, _ = await infer(
            self._protocol.shared, admitted, model, request, target.gone
        )
        return 200, _JSON, rest_generate.encode(model, request.id, checked, outcome)

    async def _stream(self, admitted: Admitted, target: _Target) -> EventsAsked:
        model, request = rest_generate.decode(admitted, target.model, target.version, target.body)
        return EventsAsked(admitted, model, request, len(target.body))

    async def _shared_memory(
        self, asked: rest_shared_memory.Asked, verb: str, headers: Headers, body: bytes
    ) -> Answer:
        if verb != asked.verb:
            return _not_allowed(asked.verb)
        admitted = await self._admit(asked.rpc, headers)
        encoding = headers.get(b"content-encoding", b"").decode("latin-1")
        request = rest_shared_memory.request(asked, inflate(body, encoding, _SHORT_JSON))
        answer = await self._protocol.answer(asked.rpc, admitted, request)
        return _ok(rest_shared_memory.content(answer))

    async def _server_metadata(self, _: Admitted, __: _Target) -> Answer:
        return _ok(rest_json.server_metadata(self._protocol.extensions))

    async def _live(self, _: Admitted, __: _Target) -> Answer:
        return _ok({"live": True})

    async def _ready(self, _: Admitted, __: _Target) -> Answer:
        ready = self._protocol.ready
        return _ok({"ready": ready}, 200 if ready else 503)

    async def _models(self, admitted: Admitted, _: _Target) -> Answer:
        return _ok({"models": list(admitted.workspace.endpoints)})

    async def _metadata(self, admitted: Admitted, target: _Target) -> Answer:
        served = admitted.workspace.find(target.model)
        return _ok(rest_json.metadata(served, served.pick(target.version)))

    async def _model_ready(self, admitted: Admitted, target: _Target) -> Answer:
        model = admitted.workspace.find(target.model).pick(target.version)
        if why := model.unready():
            raise EndpointNotReady(f"endpoint '{target.model}': {why}", endpoint=target.model)
        return _ok({"name": target.model, "ready": True})

    async def _config(self, admitted: Admitted, target: _Target) -> Answer:
        return _ok(rest_json.config(admitted.workspace.find(target.model).pick(target.version)))

    async def _statistics(self, admitted: Admitted, target: _Target) -> Answer:
        if target.model:
            models = admitted.workspace.find(target.model).counted(target.version)
        else:
            models = list(admitted.workspace.models())
        return _ok({"model_stats": [rest_json.statistics(model) for model in models]})

    async def _index(self, admitted: Admitted, target: _Target) -> Answer:
        ready = rest_codec.json_object(target.body or b"{}").get("ready", False)
        if not isinstance(ready, bool):
            raise rest_codec.BodyInvalid("'ready' is neither true nor false; send one of these")
        request = pb.RepositoryIndexRequest(ready=ready)
        index: Any = await self._protocol.answer("RepositoryIndex", admitted, request)
        return _ok([rest_json.index_entry(entry) for entry in index.models])

    async def _load(self, admitted: Admitted, target: _Target) -> Answer:
        request = pb.RepositoryModelLoadRequest(
            model_name=target.model, parameters=_repository_parameters(target.body)
        )
        await self._protocol.answer("RepositoryModelLoad", admitted, request)
        return _ok({"name": target.model, "load": True})

    async def _unload(self, admitted: Admitted, target: _Target) -> Answer:
        request = pb.RepositoryModelUnloadRequest(
            model_name=target.model, parameters=_repository_parameters(target.body)
        )
        await self._protocol.answer("RepositoryModelUnload", admitted, request)
        return _ok({"name": target.model, "unload": True})

    async def _trace(self, admitted: Admitted, target: _Target) -> Answer:
        request = rest_settings.trace_request(target.model, target.body)
        answer: Any = await self._protocol.answer("TraceSetting", admitted, request)
        return _ok(rest_settings.trace_content(answer))

    async def _log(self, admitted: Admitted, target: _Target) -> Answer:
        request = rest_settings.log_request(target.body)
        answer: Any = await self._protocol.answer("LogSettings", admitted, request)
        return _ok(rest_settings.log_content(answer))


def _repository_parameters(body: bytes) -> dict[str, pb.ModelRepositoryParameter]:
    """The ``parameters`` of a body that may be empty."""
    parameters = rest_codec.json_object(body or b"{}").get("parameters", {})
    if not isinstance(parameters, dict):
        raise rest_codec.BodyInvalid("'parameters' is not an object")
    taken = {}
    for name, value in parameters.items():
        if isinstance(value, bool):
            taken[name] = pb.ModelRepositoryParameter(bool_param=value)
        elif isinstance(value, str):
            taken[name] = pb.ModelRepositoryParameter(string_param=value)
        else:
            raise ParameterInvalid(
                f"the parameter '{name}' is neither text nor a truth value", parameter=name
            )
    return taken


def _taken_apart(rest: str) -> tuple[str, str, str]:
    """A path's model, its version, and the path without them; "" for what is not there."""
    parts = rest.split("/")
    named = 2 if parts[:2] == ["repository", "models"] else 1
    if parts[named - 1] != "models" or len(parts) <= named or rest == "models/stats":
        return "", "", rest
    model, after = parts[named], parts[named + 1 :]
    version = ""
    if named == 1 and len(after) >= 2 and after[0] == "versions":
        version, after = after[1], after[2:]
    return model, version, "/".join([*parts[:named], "*", *after])


_VERSIONED = (
    "models/*",
    "models/*/ready",
    "models/*/config",
    "models/*/stats",
    "models/*/infer",
    "models/*/generate",
    "models/*/generate_stream",
)


def _ok(content: Any, status: int = 200) -> Answer:
    return status, _JSON, json.dumps(content).encode()


def _not_allowed(verb: str) -> Answer:
    error = MethodNotAllowed(f"use {verb} here", allow=verb)
    body = json.dumps(rest_json.failure(error)).encode()
    return 405, [*_JSON, (b"allow", verb.encode())], body
