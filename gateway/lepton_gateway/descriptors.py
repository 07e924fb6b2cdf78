"""The descriptors that Envoy transcodes REST with, from the generated Python modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

from lepton_gateway.upstreams import API_FILES

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

# Errors carry google.rpc.ErrorInfo and RetryInfo in an Any, which needs them known.
_ERRORS: tuple[FileDescriptor, ...] = (status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)


def api_descriptor_set() -> bytes:
    """A serialized FileDescriptorSet of the whole API, each file after those it imports."""
    found: dict[str, FileDescriptor] = {}
    _collect((*_ERRORS, *API_FILES), found)
    result = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(result.file.add())
    return result.SerializeToString(deterministic=True)


def api_services() -> list[str]:
    """Full names of the services that REST is transcoded to."""
    return [service.full_name for file in API_FILES for service in file.services_by_name.values()]


def _collect(files: Iterable[FileDescriptor], found: dict[str, FileDescriptor]) -> None:
    for file in files:
        if file.name not in found:
            _collect(file.dependencies, found)
            found[file.name] = file
