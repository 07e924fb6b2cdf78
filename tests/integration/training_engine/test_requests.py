"""Requests about jobs: what is refused before anything is kept, and the pages of a list."""

from __future__ import annotations

import re

import pytest

from lepton.api.training.v1 import training_pb2 as pb
from lepton_mesh.resources import InvalidId, InvalidName, InvalidPage, InvalidRequestId, Page
from lepton_training.job import JobExists
from lepton_training.jobs import PAGE_KEY
from lepton_training.spec import JobSpecInvalid
from tests.integration.training_engine.conftest import Start, script

pytestmark = pytest.mark.integration


async def test_what_cannot_be_trained_is_refused(start: Start) -> None:
    """A table is no set of images; nothing is kept of a spec that is only checked."""
    training = await start(script("pass"))
    with pytest.raises(JobSpecInvalid, match="DATASET_FORMAT_IDX"):
        await training.create("table", dataset="datasets/table/versions/1")
    with pytest.raises(JobSpecInvalid, match=r"trains on DATASET_FORMAT_CSV or DATASET_FORMAT_RAW"):
        await training.create("digits", recipe="text_bag", hyperparameters={})
    chosen = await training.jobs.create(
        "w",
        "users/ada",
        {"recipe": "text_bag", "dataset": "datasets/table/versions/1", "model": "models/m"},
        validate_only=True,
    )
    assert re.fullmatch(r"text-bag-[0-9a-f]{8}", chosen.id)  # as ids are: no underscore
    checked = await training.jobs.create(
        "w",
        "users/ada",
        {"recipe": "cnn", "dataset": "datasets/digits/versions/1", "model": "models/m"},
        validate_only=True,
    )
    assert checked.spec["hyperparameters"]["epochs"] == 5
    assert await training.jobs.list_page("w", Page(1, None, "jobs")) == ([], "")
    job = await training.create("taken")
    for request_id in ("", "another"):
        with pytest.raises(JobExists):
            await training.jobs.create(
                "w",
                "users/ada",
                job.spec,
                job_id="taken",
                request_id=request_id,
                validate_only=True,
            )


async def test_pages_of_jobs(start: Start) -> None:
    """Every job once, newest first, by the tokens that the pages give."""
    training = await start(script("time.sleep(600)"), cores=1)
    for job_id in ("a", "b", "c"):
        await training.create(job_id)
    jobs, token = await training.jobs.list_page("w", Page(2, None, "jobs"))
    asked = pb.ListJobsRequest(page_size=2, page_token=token)
    rest = await training.jobs.list_page("w", Page.of(asked, "jobs", *PAGE_KEY))
    assert [job.id for job in jobs] == ["c", "b"]
    assert ([job.id for job in rest[0]], rest[1]) == (["a"], "")


@pytest.mark.parametrize("key", [(10**30, "a"), (-(10**18), "a"), (0, "A\0")])
async def test_a_crafted_page_token_is_refused(start: Start, key: tuple[int, str]) -> None:
    """Times that do not exist and ids that no job has are the caller's fault, not ours."""
    training = await start(script("pass"))
    with pytest.raises(InvalidPage):
        await training.jobs.list_page("w", Page(1, key, "jobs"))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"request_id": "x" * 129}, InvalidRequestId),
        ({"request_id": "a\0b"}, InvalidRequestId),
        ({"job_id": "No Id"}, InvalidId),
    ],
)
async def test_ids_are_checked(
    start: Start, values: dict[str, str], error: type[Exception]
) -> None:
    """Before anything is asked or kept."""
    training = await start(script("pass"))
    with pytest.raises(error):
        await training.jobs.create("w", "users/ada", {}, **values)
    with pytest.raises(InvalidName):
        await training.jobs.get("w", "models/a")


async def test_a_spec_that_is_too_large_is_refused(start: Start) -> None:
    """It would be in the record of every change of the job."""
    training = await start(script("pass"))
    with pytest.raises(JobSpecInvalid, match="bytes as JSON; at most"):
        await training.create("large", labels={"a": "x" * (1 << 18)})
