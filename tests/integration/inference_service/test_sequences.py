"""Endpoints of models that remember, as users write them, through changes of what they serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from lepton.client.specs import endpoint_from_mapping
from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.convert import wanted_of
from lepton_inference.endpoint import Endpoint, State
from lepton_inference.open_inference import OpenInference
from lepton_inference.sequences import SequenceUnknown
from lepton_inference.serving import Admitted
from lepton_mesh.caller import Caller, Role, set_caller
from lepton_mesh.errors import LeptonError
from tests.inference_models import fibonacci
from tests.managed_inference import ManagedInference, Models

YAML = """
targets:
- {model_version: models/f/versions/1}
sequences:
  states:
  - {output: after, input: before}
  max_idle_us: 30000000
"""


@pytest.fixture
async def inference(tmp_path: Path) -> AsyncIterator[ManagedInference]:
    models = Models({"f/1": fibonacci(), "f/2": fibonacci()})
    made = await asyncio.to_thread(ManagedInference, models, tmp_path / "db", tmp_path / "cache")
    await made.deployer.start()
    yield made
    await made.close()


async def deploy(inference: ManagedInference, text: str, *fields: str) -> Endpoint:
    wanted = wanted_of(endpoint_from_mapping(yaml.safe_load(text)))
    set_caller(Caller("user", "users/ada", "lab", Role.DEVELOPER))
    if fields:
        return await inference.manager.update(
            "lab", "f", etag="", wanted=wanted, fields=fields, wait=True
        )
    return await inference.manager.create(
        workspace="lab", endpoint_id="f", creator="users/ada", wanted=wanted, wait=True
    )


async def ask(
    inference: ManagedInference, id_: str, *, start: bool = False, who: str = "users/ada"
) -> tuple[int, str]:
    """The answer, and the version that gave it."""
    request = pb.ModelInferRequest(
        model_name="f",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="INT64", shape=[1, 1])],
        parameters={
            "sequence_id": pb.InferParameter(string_param=id_),
            "sequence_start": pb.InferParameter(bool_param=start),
        },
        raw_input_contents=[np.array([[3]], np.int64).tobytes()],
    )
    caller = Caller("user", who, "lab", Role.DEVELOPER)
    admitted = Admitted(caller, inference.serving.workspace("lab"))
    protocol = OpenInference(inference.serving)
    answer = pb.ModelInferResponse.FromString(
        await protocol.infer(admitted, request.SerializeToString())
    )
    number = int(np.frombuffer(answer.raw_output_contents[0], np.int64)[0])
    return number, answer.model_version


async def test_sequences_outlive_what_they_began_with(inference: ManagedInference) -> None:
    """While it drains; new ones begin with its successor, and unloading ends all."""
    assert (await deploy(inference, YAML)).settings.sequences is not None
    assert await ask(inference, "a", start=True) == (3, "1")
    with pytest.raises(SequenceUnknown):
        await ask(inference, "a", who="users/eve")
    served = inference.serving.workspace("lab").endpoints["f"]
    old = served.models[0]

    await deploy(inference, YAML.replace("versions/1", "versions/2"), "targets")
    assert await ask(inference, "a") == (6, "1")
    assert await ask(inference, "b", start=True) == (3, "2")
    # A change of settings loads anew, and both older models go on.
    await deploy(inference, YAML.replace("30000000", "20000000"), "sequences")
    assert await ask(inference, "a") == (6, "1")
    assert await ask(inference, "b") == (6, "2")
    assert len(inference.serving.workspace("lab").endpoints["f"].draining) == 2

    # Begun anew, it is with the new model, and nothing keeps the old one.
    assert await ask(inference, "a", start=True) == (3, "2")
    async with asyncio.timeout(20):
        while old in inference.serving.workspace("lab").endpoints["f"].draining:
            await asyncio.sleep(0.01)
    await inference.manager.delete("lab", "f")
    with pytest.raises(LeptonError, match="no endpoint 'f'"):
        await ask(inference, "b")


async def test_states_that_do_not_fit_are_told(inference: ManagedInference) -> None:
    """The endpoint is FAILED, and says which tensor."""
    with pytest.raises(LeptonError, match="no output 'later' that sequences names"):
        await deploy(inference, YAML.replace("after", "later"))
    failed = await inference.manager.get("lab", "f")
    assert (failed.state, failed.failure_reason) == (State.FAILED, "ENDPOINT_INVALID")
