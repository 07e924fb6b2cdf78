"""What is logged, and what never is."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest

from lepton_mesh import logs

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"join_token": "s3cret-value"}, "s3cret-value"),
        ({"header": "Bearer abcdefgh"}, "abcdefgh"),
        ({"body": "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"}, "c2ln"),
        ({"pem": "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----"}, "MIGH"),
        ({"url": "postgresql://lepton:hunter2@db/x"}, "hunter2"),
        ({"note": "key lpk_0123456789"}, "lpk_0123"),
    ],
)
def test_secrets_stay_out_of_the_log(fields: dict[str, str], text: str) -> None:
    """By the field's name, or by what the value looks like; in the message as well."""
    for formatter in (logs.JsonFormatter("storage", "s-1"), logs.ConsoleFormatter()):
        record = logging.makeLogRecord({"msg": " ".join(fields.values()), "levelname": "INFO"})
        if "authorization" in fields or "join_token" in fields:
            record.msg = "event"
        vars(record).update(fields)
        line = formatter.format(record)
        assert text not in line
        assert logs.REDACTED in line


def test_json_lines_carry_fields_and_tracebacks() -> None:
    """One parseable object a record."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter("storage", "s-1"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        int("bad\nvalue")
    except ValueError:
        logger.exception("failed", extra={"rows": 3})
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["event"] == "failed"
    assert (entry["rows"], entry["service"], entry["level"]) == (3, "storage", "error")
    assert "ValueError" in entry["traceback"]
