"""Triton's ModelConfig as JSON, as far as an endpoint has settings for it.

What has no setting here is refused by its name: nothing that is asked is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace

from google.protobuf import json_format
from google.protobuf.message import Message

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.parameters import ParameterInvalid, ParameterUnsupported
from lepton_inference.repository import Change
from lepton_inference.settings import (
    BatchingSettings,
    ExecutionSettings,
    ModelSettings,
    default_level,
)

_MOST_CHARACTERS = 1 << 20
"""Parsing JSON holds up every other request."""
_BACKENDS = {"platform": ("onnxruntime_onnx",), "backend": ("onnxruntime",)}
_FIELDS = frozenset(
    {
        "name",
        *_BACKENDS,
        "max_batch_size",
        "dynamic_batching",
        "instance_group",
        "response_cache",
    }
)
_BATCHING = frozenset(
    {
        "preferred_batch_size",
        "max_queue_delay_microseconds",
        "priority_levels",
        "default_priority_level",
        "default_queue_policy",
    }
)


def parse_config(text: str, model: str) -> Change:
    """The change of settings that a ModelConfig in JSON asks for.

    Args:
        text: JSON with the field names of ``model_config.proto``, as Triton's clients send it.
        model: The name that it is for.

    Raises:
        ParameterInvalid: It is not a ModelConfig, or one of something else.
        ParameterUnsupported: It sets what an endpoint has no setting for.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ParameterInvalid(
            f"the parameter 'config' has {len(text)} characters; it takes {_MOST_CHARACTERS}",
            parameter="config",
        )
    config = pb.ModelConfig()
    try:
        said = dict(json.loads(text).items())
        json_format.ParseDict(said, config)
    except (ValueError, json_format.ParseError, AttributeError, TypeError, RecursionError) as error:
        what = str(error).partition("\n")[0][:300]
        raise ParameterInvalid(
            f"the parameter 'config' is not a ModelConfig in JSON: {what}", parameter="config"
        ) from None
    _refuse_others(config, "", _FIELDS)
    _refuse_others(config.dynamic_batching, "dynamic_batching.", _BATCHING)
    _refuse_others(
        config.dynamic_batching.default_queue_policy,
        "dynamic_batching.default_queue_policy.",
        {"max_queue_size"},
    )
    if config.name not in ("", model):
        raise ParameterInvalid(
            f"the parameter 'config' is of '{config.name}' and the model to load is '{model}'",
            parameter="config",
        )
    for field, known in _BACKENDS.items():
        value = getattr(config, field)
        if value not in ("", *known):
            raise ParameterUnsupported(
                f"the parameter 'config' sets {field} '{value}'; this server has {known[0]}",
                parameter=f"config.{field}",
            )
    instances = _instances(config)
    sizes = said.keys() & {"max_batch_size", "maxBatchSize"}

    def change(settings: ModelSettings) -> ModelSettings:
        batching = settings.batching
        if sizes:
            # 0 turns batching off, as 1 does.
            batching = replace(batching, max_rows=config.max_batch_size or 1)
        if config.HasField("dynamic_batching"):
            batching = _dynamic(batching, config.dynamic_batching)
        execution = settings.execution
        if instances:
            execution = replace(execution, instances=instances)
        cache_bytes = settings.response_cache_bytes
        if config.HasField("response_cache"):
            cache_bytes = _cache_bytes(cache_bytes, config.response_cache.enable)
        return replace(
            settings, batching=batching, execution=execution, response_cache_bytes=cache_bytes
        )

    return change


def _dynamic(batching: BatchingSettings, wanted: pb.ModelDynamicBatching) -> BatchingSettings:
    """As Triton, what ``dynamic_batching`` leaves out is at its default."""
    levels = wanted.priority_levels or 1
    return replace(
        batching,
        preferred_rows=tuple(wanted.preferred_batch_size),
        max_delay_seconds=wanted.max_queue_delay_microseconds / 1e6,
        adaptive_delay=batching.adaptive_delay and wanted.max_queue_delay_microseconds > 0,
        priority_levels=levels,
        default_priority=default_level(wanted.default_priority_level, levels),
        max_queue=wanted.default_queue_policy.max_queue_size or BatchingSettings.max_queue,
    )


def _instances(config: pb.ModelConfig) -> int:
    """The count of the one instance group; 0 where there is none."""
    if not config.instance_group:
        return 0
    if len(config.instance_group) > 1:
        raise ParameterUnsupported(
            f"the parameter 'config' has {len(config.instance_group)} instance groups; this "
            "server has one",
            parameter="config.instance_group",
        )
    (group,) = config.instance_group
    # Where a model runs is the server's choice.
    _refuse_others(group, "instance_group.", {"name", "count"})
    return group.count or ExecutionSettings.instances


def _cache_bytes(now: int, enable: bool) -> int:
    """The size of the response cache; ModelConfig can switch it on and not say how large."""
    if enable and not now:
        raise ParameterUnsupported(
            "the parameter 'config' switches the response cache on and cannot say its size; set "
            "the endpoint's response_cache_bytes instead",
            parameter="config.response_cache",
        )
    return now if enable else 0


def _refuse_others(message: Message, path: str, known: Collection[str]) -> None:
    for field, _ in message.ListFields():
        if field.name not in known:
            raise ParameterUnsupported(
                f"the parameter 'config' sets {path}{field.name}, for which an endpoint has no "
                "setting; leave it out",
                parameter=f"config.{path}{field.name}",
            )
