"""Who serves what, where: each instance's record in etcd, and a live view of all of them.

A record is owned by a lease of ten seconds that its instance renews; an instance
that dies is forgotten when its lease ends, one that drains revokes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from lepton_mesh.errors import LeptonError, Unavailable
from lepton_mesh.etcd import EtcdClient, LeaseLost, Listing, WatchBatch, WatchEvent

log = logging.getLogger(__name__)

PREFIX = "/lepton/services/"
LEASE_SECONDS = 10
MAX_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Instance:
    """One process of a service, as it makes itself known."""

    service: str
    instance: str
    address: str
    """``host:port`` of its gRPC server."""
    version: str = ""
    zone: str = "local"
    capacity: int = 1
    spiffe_id: str = ""
    cert_not_after: str = ""
    """ISO 8601."""
    ports: dict[str, str] = field(default_factory=dict, hash=False)
    """Further listeners by name (``metrics``, ``oip``), ``host:port`` each."""
    started: str = ""
    """ISO 8601."""

    @property
    def key(self) -> str:
        """Where its record is in etcd."""
        return f"{PREFIX}{self.service}/{self.instance}"

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> Instance:
        """The instance of a record; fields of later versions are left out.

        Raises:
            ValueError: The value is not a record.
        """
        hints = {f.name: f.type for f in dataclasses.fields(cls)}
        try:
            record = dict(json.loads(value))
            for name, content in record.items():
                if name in hints and not _IS[hints[name]](content):
                    raise ValueError(f"not an instance's record: {name} is no {hints[name]}")
            return cls(**{name: content for name, content in record.items() if name in hints})
        except TypeError as error:
            raise ValueError(f"not an instance's record: {error}") from error


# Any: a dataclass' field tells its type as text, where annotations are postponed.
_IS: dict[Any, Callable[[object], bool]] = {
    "str": lambda content: isinstance(content, str),
    "int": lambda content: isinstance(content, int) and not isinstance(content, bool),
    "dict[str, str]": lambda content: (
        isinstance(content, dict) and all(isinstance(one, str) for one in content.values())
    ),
}


class Registration:
    """Keeps one instance's record in etcd for as long as the instance serves.

    A lost lease is replaced, an outage of etcd outlasted: the record is back
    within seconds after etcd is.
    """

    def __init__(
        self, etcd: EtcdClient, instance: Instance, lease_seconds: int = LEASE_SECONDS
    ) -> None:
        self._etcd = etcd
        self._instance = instance
        self._lease_seconds = lease_seconds
        self._lease = 0
        # Held by whoever writes: a record written beside a new lease would have none, and stay.
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def instance(self) -> Instance:
        return self._instance

    async def start(self) -> None:
        """Registers, and returns when the record is in etcd.

        Raises:
            LeptonError: etcd cannot be reached, or refuses the record.
        """
        await self._register()
        self._task = asyncio.create_task(self._keep(), name=f"registration {self._instance.key}")

    async def update(self, instance: Instance) -> None:
        """Replaces the record by one of the same service and name.

        While etcd is away the new record waits for it.
        """
        if instance.key != self._instance.key:
            raise ValueError(f"{instance.key} is not {self._instance.key}; register it instead")
        async with self._writing:
            self._instance = instance
            if self._lease == 0:
                return  # the keeper registers anew, with the new record
            try:
                await self._etcd.put(instance.key, instance.to_json(), self._lease)
            except (Unavailable, LeaseLost):
                self._lease = 0

    async def revoke(self, timeout_seconds: float = 2.0) -> None:
        """Takes the record away, so that no new call comes; etcd's absence is no error."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with contextlib.suppress(LeptonError, TimeoutError):
            async with asyncio.timeout(timeout_seconds), self._writing:
                lease, self._lease = self._lease, 0
                if lease:
                    await self._etcd.lease_revoke(lease, timeout_seconds)

    async def _register(self) -> None:
        async with self._writing:
            self._lease = 0
            lease = await self._etcd.lease_grant(self._lease_seconds)
            await self._etcd.put(self._instance.key, self._instance.to_json(), lease)
            self._lease = lease

    async def _keep(self) -> None:
        pause = 0.1
        while True:
            try:
                if self._lease == 0:
                    await self._register()
                    log.info("registered again", extra={"key": self._instance.key})
                left = await self._etcd.lease_keepalive(self._lease)
                pause = 0.1
                await asyncio.sleep(min(left, self._lease_seconds) / 3)
            except LeaseLost:
                self._lease = 0
            except Exception as error:
                # Whatever it was, an instance that stopped registering would be worse.
                log.warning(
                    "registration waits",
                    extra={"key": self._instance.key, "error": str(error)},
                )
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter is no secret
                pause = min(2 * pause, MAX_PAUSE_SECONDS)


class Directory:
    """A live view of the instances of every service.

    While etcd is away the last known set stays.

    Args:
        etcd: A client that may read ``/lepton/services/``.
    """

    def __init__(self, etcd: EtcdClient) -> None:
        self._etcd = etcd
        self._instances: dict[str, dict[str, Instance]] = {}
        self._subscribers: list[Callable[[str], None]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to watch, and returns when the present instances are known.

        Raises:
            LeptonError: etcd cannot be reached, or refuses the reading.
        """
        listing = await self._etcd.range_prefix(PREFIX)
        self._apply(WatchEvent(item.key, item, item.mod_revision) for item in listing.items)
        self._task = asyncio.create_task(self._follow(listing), name="directory")

    def instances(self, service: str) -> tuple[Instance, ...]:
        """The instances known of ``service``, by name; empty when there are none."""
        known = self._instances.get(service, {})
        return tuple(known[name] for name in sorted(known))

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Calls ``callback(service)`` after each change of a service's instances.

        It is called in the event loop and must not block. Returns what ends it.
        """
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, start: Listing | None) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._etcd.watch(PREFIX, start)) as batches:
                    async for batch in batches:
                        if start is None:
                            # A watch of its own beginning lists everything first:
                            # what it does not name is gone.
                            start = Listing((), batch.revision, 0)
                            self._apply(self._missing_from(batch))
                        self._apply(batch.events)
            except Exception:
                # Whatever it was, a directory that stopped following would be worse.
                log.exception("directory lists again")
                start = None
                await asyncio.sleep(MAX_PAUSE_SECONDS)

    def _missing_from(self, listing: WatchBatch) -> list[WatchEvent]:
        named = {event.key for event in listing.events}
        held = [one.key for known in self._instances.values() for one in known.values()]
        return [WatchEvent(key, None, listing.revision) for key in held if key not in named]

    def _apply(self, events: Iterable[WatchEvent]) -> None:
        changed: dict[str, None] = {}
        for event in events:
            service, _, name = event.key.removeprefix(PREFIX).partition("/")
            if not name:
                continue
            known = self._instances.setdefault(service, {})
            if event.item is None:
                known.pop(name, None)
            else:
                try:
                    known[name] = _of_key(event.key, event.item.value)
                except ValueError as error:
                    # What it said before may still hold; nobody else's record suffers.
                    log.warning("record unreadable", extra={"key": event.key, "error": str(error)})
                    continue
            changed[service] = None
        if not changed:
            return
        for service in changed:
            for callback in tuple(self._subscribers):
                try:
                    callback(service)
                except Exception:  # one subscriber's trouble is no other's
                    log.exception("subscriber failed", extra={"changed": service})


def _of_key(key: str, value: bytes) -> Instance:
    """The instance of the record at ``key``; ValueError if it speaks for another."""
    one = Instance.from_json(value)
    if one.key != key:
        raise ValueError(f"it is of {one.service}/{one.instance}")
    return one
