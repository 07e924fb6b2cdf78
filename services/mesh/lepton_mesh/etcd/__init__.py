"""A client of etcd's v3 API over ``grpc.aio``: keys, leases, watches and users."""

from lepton_mesh.etcd.client import EtcdClient
from lepton_mesh.etcd.errors import EtcdDenied, EtcdError, EtcdUnavailable, LeaseLost
from lepton_mesh.etcd.keys import KeyValue, Listing
from lepton_mesh.etcd.watch import WatchBatch, WatchEvent

__all__ = [
    "EtcdClient",
    "EtcdDenied",
    "EtcdError",
    "EtcdUnavailable",
    "KeyValue",
    "LeaseLost",
    "Listing",
    "WatchBatch",
    "WatchEvent",
]
