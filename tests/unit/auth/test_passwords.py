"""argon2id off the event loop, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from threading import Event

import argon2
import pytest

from lepton_auth.adapters.argon2_passwords import Argon2Passwords
from lepton_auth.errors import LoginBusy

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def passwords() -> Iterator[Argon2Passwords]:
    passwords = Argon2Passwords(1, 1, CHEAP)
    yield passwords
    passwords.close()


async def test_only_the_password_verifies(passwords: Argon2Passwords) -> None:
    """And nothing verifies against nobody, not even the decoy's own password."""
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$")
    assert await passwords.verify(stored, "correct horse")
    assert not await passwords.verify(stored, "wrong horse")
    assert not await passwords.verify(None, "of nobody")


async def test_weaker_parameters_are_outdated(passwords: Argon2Passwords) -> None:
    """A hash made with less than today's cost is to be made anew."""
    stored = await passwords.hash("correct horse")
    today = Argon2Passwords(1, 1, argon2.PasswordHasher(time_cost=2, memory_cost=8, parallelism=1))
    assert today.outdated(stored)
    assert not passwords.outdated(stored)
    today.close()


async def test_the_queue_is_bounded_and_the_loop_free() -> None:
    """One runs, one waits, the third is refused at once, and the event loop goes on."""
    held = Event()

    class Slow(argon2.PasswordHasher):
        def verify(self, *_: object) -> bool:
            return held.wait(10)

    passwords = Argon2Passwords(1, 1, Slow(time_cost=1, memory_cost=8, parallelism=1))
    first, second = (asyncio.create_task(passwords.verify("x", "y")) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(LoginBusy):
        await passwords.verify("x", "y")
    assert not first.done()
    held.set()
    assert await first
    assert await second
    passwords.close()
