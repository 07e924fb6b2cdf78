"""Endpoints as the management API's messages."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton_inference.batcher import BatchingSettings
from lepton_inference.endpoint import Endpoint, batching_settings


def endpoint_message(endpoint: Endpoint) -> pb.Endpoint:
    """The resource that clients see."""
    return pb.Endpoint(
        name=endpoint.name,
        targets=[
            pb.Target(
                model_version=target.wanted,
                weight=target.weight,
                resolved_version=target.version.name,
                sha256=target.version.sha256,
            )
            for target in endpoint.targets
        ],
        batching=pb.Batching(
            max_batch_rows=endpoint.batching.max_rows,
            max_delay_us=round(endpoint.batching.max_delay_seconds * 1e6),
            max_queue=endpoint.batching.max_queue,
        ),
        state=endpoint.state.value,
        failure_reason=endpoint.failure_reason,
        failure_message=endpoint.failure_message,
        execution_provider=endpoint.execution_provider,
        description=endpoint.description,
        labels=endpoint.labels,
        creator=endpoint.creator,
        create_time=_timestamp(endpoint.created),
        update_time=_timestamp(endpoint.updated),
        etag=str(endpoint.revision),
    )


def targets_of(message: pb.Endpoint) -> list[tuple[str, int]]:
    """(version or alias, weight) pairs."""
    return [(target.model_version, target.weight) for target in message.targets]


def batching_of(message: pb.Endpoint) -> BatchingSettings:
    """Raises EndpointInvalid for a setting out of bounds."""
    batching = message.batching
    return batching_settings(batching.max_batch_rows, batching.max_delay_us, batching.max_queue)


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
