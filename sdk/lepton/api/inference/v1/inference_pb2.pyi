import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Target(_message.Message):
    __slots__ = ("model_version", "weight", "resolved_version", "sha256")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    weight: int
    resolved_version: str
    sha256: str
    def __init__(self, model_version: _Optional[str] = ..., weight: _Optional[int] = ..., resolved_version: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class Batching(_message.Message):
    __slots__ = ("max_batch_rows", "max_delay_us", "max_queue", "preferred_batch_rows", "priority_levels", "default_priority", "adaptive_delay", "pad_ragged")
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_US_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_LEVELS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_DELAY_FIELD_NUMBER: _ClassVar[int]
    PAD_RAGGED_FIELD_NUMBER: _ClassVar[int]
    max_batch_rows: int
    max_delay_us: int
    max_queue: int
    preferred_batch_rows: _containers.RepeatedScalarFieldContainer[int]
    priority_levels: int
    default_priority: int
    adaptive_delay: bool
    pad_ragged: bool
    def __init__(self, max_batch_rows: _Optional[int] = ..., max_delay_us: _Optional[int] = ..., max_queue: _Optional[int] = ..., preferred_batch_rows: _Optional[_Iterable[int]] = ..., priority_levels: _Optional[int] = ..., default_priority: _Optional[int] = ..., adaptive_delay: _Optional[bool] = ..., pad_ragged: _Optional[bool] = ...) -> None: ...

class Execution(_message.Message):
    __slots__ = ("instances", "isolation", "memory_limit_mib", "max_run_ms", "devices", "cuda_graphs", "tensorrt")
    class Isolation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ISOLATION_UNSPECIFIED: _ClassVar[Execution.Isolation]
        AUTO: _ClassVar[Execution.Isolation]
        SHARED: _ClassVar[Execution.Isolation]
        OWN_PROCESS: _ClassVar[Execution.Isolation]
    ISOLATION_UNSPECIFIED: Execution.Isolation
    AUTO: Execution.Isolation
    SHARED: Execution.Isolation
    OWN_PROCESS: Execution.Isolation
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_MIB_FIELD_NUMBER: _ClassVar[int]
    MAX_RUN_MS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    CUDA_GRAPHS_FIELD_NUMBER: _ClassVar[int]
    TENSORRT_FIELD_NUMBER: _ClassVar[int]
    instances: int
    isolation: Execution.Isolation
    memory_limit_mib: int
    max_run_ms: int
    devices: _containers.RepeatedScalarFieldContainer[int]
    cuda_graphs: bool
    tensorrt: bool
    def __init__(self, instances: _Optional[int] = ..., isolation: _Optional[_Union[Execution.Isolation, str]] = ..., memory_limit_mib: _Optional[int] = ..., max_run_ms: _Optional[int] = ..., devices: _Optional[_Iterable[int]] = ..., cuda_graphs: _Optional[bool] = ..., tensorrt: _Optional[bool] = ...) -> None: ...

class SequenceBatching(_message.Message):
    __slots__ = ("states", "max_idle_us", "max_sequences", "feed_back", "max_steps")
    class Link(_message.Message):
        __slots__ = ("output", "input")
        OUTPUT_FIELD_NUMBER: _ClassVar[int]
        INPUT_FIELD_NUMBER: _ClassVar[int]
        output: str
        input: str
        def __init__(self, output: _Optional[str] = ..., input: _Optional[str] = ...) -> None: ...
    STATES_FIELD_NUMBER: _ClassVar[int]
    MAX_IDLE_US_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    FEED_BACK_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[SequenceBatching.Link]
    max_idle_us: int
    max_sequences: int
    feed_back: _containers.RepeatedCompositeFieldContainer[SequenceBatching.Link]
    max_steps: int
    def __init__(self, states: _Optional[_Iterable[_Union[SequenceBatching.Link, _Mapping]]] = ..., max_idle_us: _Optional[int] = ..., max_sequences: _Optional[int] = ..., feed_back: _Optional[_Iterable[_Union[SequenceBatching.Link, _Mapping]]] = ..., max_steps: _Optional[int] = ...) -> None: ...

class ShadowComparison(_message.Message):
    __slots__ = ("compared", "agreed", "failed", "dropped", "outputs")
    class Output(_message.Message):
        __slots__ = ("max_abs_difference", "differing", "rows", "same_argmax")
        MAX_ABS_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
        DIFFERING_FIELD_NUMBER: _ClassVar[int]
        ROWS_FIELD_NUMBER: _ClassVar[int]
        SAME_ARGMAX_FIELD_NUMBER: _ClassVar[int]
        max_abs_difference: float
        differing: int
        rows: int
        same_argmax: int
        def __init__(self, max_abs_difference: _Optional[float] = ..., differing: _Optional[int] = ..., rows: _Optional[int] = ..., same_argmax: _Optional[int] = ...) -> None: ...
    class OutputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ShadowComparison.Output
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ShadowComparison.Output, _Mapping]] = ...) -> None: ...
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    compared: int
    agreed: int
    failed: int
    dropped: int
    outputs: _containers.MessageMap[str, ShadowComparison.Output]
    def __init__(self, compared: _Optional[int] = ..., agreed: _Optional[int] = ..., failed: _Optional[int] = ..., dropped: _Optional[int] = ..., outputs: _Optional[_Mapping[str, ShadowComparison.Output]] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("model_version", "percent", "resolved_version", "sha256", "tolerance", "comparison")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    percent: float
    resolved_version: str
    sha256: str
    tolerance: float
    comparison: ShadowComparison
    def __init__(self, model_version: _Optional[str] = ..., percent: _Optional[float] = ..., resolved_version: _Optional[str] = ..., sha256: _Optional[str] = ..., tolerance: _Optional[float] = ..., comparison: _Optional[_Union[ShadowComparison, _Mapping]] = ...) -> None: ...

class EnsembleStep(_message.Message):
    __slots__ = ("endpoint", "model_version", "inputs", "outputs")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class OutputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    model_version: str
    inputs: _containers.ScalarMap[str, str]
    outputs: _containers.ScalarMap[str, str]
    def __init__(self, endpoint: _Optional[str] = ..., model_version: _Optional[str] = ..., inputs: _Optional[_Mapping[str, str]] = ..., outputs: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Ensemble(_message.Message):
    __slots__ = ("steps", "outputs")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[EnsembleStep]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, steps: _Optional[_Iterable[_Union[EnsembleStep, _Mapping]]] = ..., outputs: _Optional[_Iterable[str]] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("name", "targets", "batching", "state", "failure_reason", "failure_message", "execution_provider", "description", "labels", "creator", "create_time", "update_time", "etag", "execution", "shadow", "ensemble", "sequences", "response_cache_bytes", "unloaded", "activity")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Endpoint.State]
        DEPLOYING: _ClassVar[Endpoint.State]
        READY: _ClassVar[Endpoint.State]
        FAILED: _ClassVar[Endpoint.State]
        UNLOADED: _ClassVar[Endpoint.State]
    STATE_UNSPECIFIED: Endpoint.State
    DEPLOYING: Endpoint.State
    READY: Endpoint.State
    FAILED: Endpoint.State
    UNLOADED: Endpoint.State
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    BATCHING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CREATOR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    ENSEMBLE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNLOADED_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    targets: _containers.RepeatedCompositeFieldContainer[Target]
    batching: Batching
    state: Endpoint.State
    failure_reason: str
    failure_message: str
    execution_provider: str
    description: str
    labels: _containers.ScalarMap[str, str]
    creator: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    etag: str
    execution: Execution
    shadow: Shadow
    ensemble: Ensemble
    sequences: SequenceBatching
    response_cache_bytes: int
    unloaded: bool
    activity: str
    def __init__(self, name: _Optional[str] = ..., targets: _Optional[_Iterable[_Union[Target, _Mapping]]] = ..., batching: _Optional[_Union[Batching, _Mapping]] = ..., state: _Optional[_Union[Endpoint.State, str]] = ..., failure_reason: _Optional[str] = ..., failure_message: _Optional[str] = ..., execution_provider: _Optional[str] = ..., description: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., creator: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., execution: _Optional[_Union[Execution, _Mapping]] = ..., shadow: _Optional[_Union[Shadow, _Mapping]] = ..., ensemble: _Optional[_Union[Ensemble, _Mapping]] = ..., sequences: _Optional[_Union[SequenceBatching, _Mapping]] = ..., response_cache_bytes: _Optional[int] = ..., unloaded: _Optional[bool] = ..., activity: _Optional[str] = ...) -> None: ...

class CreateEndpointRequest(_message.Message):
    __slots__ = ("endpoint_id", "endpoint")
    ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    endpoint_id: str
    endpoint: Endpoint
    def __init__(self, endpoint_id: _Optional[str] = ..., endpoint: _Optional[_Union[Endpoint, _Mapping]] = ...) -> None: ...

class GetEndpointRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListEndpointsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEndpointsResponse(_message.Message):
    __slots__ = ("endpoints", "next_page_token")
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    next_page_token: str
    def __init__(self, endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateEndpointRequest(_message.Message):
    __slots__ = ("endpoint", "update_mask")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    endpoint: Endpoint
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, endpoint: _Optional[_Union[Endpoint, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class DeleteEndpointRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchEndpointRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...
