"""What the directory makes of records, and whom it tells."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from lepton_mesh.discovery import PREFIX, Directory, Instance
from lepton_mesh.etcd.keys import KeyValue, Listing

if TYPE_CHECKING:
    from lepton_mesh.etcd import EtcdClient

GOOD = Instance("storage", "storage-1", "127.0.0.1:1")


class Etcd:
    """Lists what a test put in, and never changes."""

    def __init__(self, records: dict[str, bytes]) -> None:
        self._items = tuple(
            KeyValue(key, value, mod_revision=1, lease=1) for key, value in records.items()
        )

    async def range_prefix(self, prefix: str) -> Listing:
        return Listing(self._items, 1, 1)

    async def watch(self, prefix: str, start: Listing | None) -> Any:
        return
        yield


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        json.dumps(dataclasses.asdict(GOOD) | {"address": 5}).encode(),
        Instance("auth", "storage-2", "127.0.0.1:2").to_json(),
        Instance("storage", "storage-9", "127.0.0.1:2").to_json(),
    ],
)
async def test_a_bad_record_is_left_out_and_hides_no_other(bad: bytes) -> None:
    """Not readable, or one that speaks for another key than its own."""
    etcd = Etcd({f"{PREFIX}storage/storage-2": bad, GOOD.key: GOOD.to_json()})
    directory = Directory(cast("EtcdClient", etcd))
    await directory.start()
    assert directory.instances("storage") == (GOOD,)
    assert directory.instances("auth") == ()
    await directory.close()


async def test_a_subscriber_that_raises_is_logged_and_the_others_hear(
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = Directory(cast("EtcdClient", Etcd({GOOD.key: GOOD.to_json()})))
    heard: list[str] = []

    def broken(service: str) -> None:
        raise RuntimeError("broken")

    directory.subscribe(broken)
    directory.subscribe(heard.append)
    await directory.start()
    await directory.close()
    assert heard == ["storage"]
    assert "broken" in caplog.text
