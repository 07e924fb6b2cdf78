"""The command line's profile for a stack: the admin, by an API key of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lepton.client import Profile, ProfileError, load_profile, save_profile
from lepton_local.authority import Authority
from lepton_local.home import Home, StackRecord


async def save_admin_profile(
    authority: Authority, home: Home, record: StackRecord, name: str
) -> Path:
    """Writes the profile ``name`` for the stack; returns the file it is in.

    A key that the profile already has for this stack is kept. Otherwise a new one is made:
    whoever owns the stack's directory may do everything there anyway.
    """
    profile = Profile(address=record.gateway, ca_file=str(home.ca_file))
    try:
        known = load_profile(name)
    except ProfileError:
        known = profile
    kept = known.api_key if known.ca_file == profile.ca_file else ""
    key = kept or await authority.create_api_key("lepton up")
    return save_profile(name, replace(profile, api_key=key))


def forget_key(home: Home, name: str) -> None:
    """Takes a key out of the profile ``name`` that an earlier stack in ``home`` knew."""
    try:
        known = load_profile(name)
    except ProfileError:
        return
    if known.api_key and known.ca_file == str(home.ca_file):
        save_profile(name, replace(known, api_key=""))
