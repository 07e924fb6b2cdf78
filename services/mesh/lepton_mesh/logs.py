"""Structured logs on stderr: JSON lines for machines, one short line for people.

Events are short constants and everything that varies is a field::

    log.info("lease lost", extra={"lease": lease})

Secrets are cut out twice: fields with a telling name, and anything in a text that looks like
a token, an API key or a private key.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any, Final, TextIO

from lepton_mesh.telemetry import current_trace_id

REDACTED: Final = "[redacted]"

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_NAME = re.compile(
    r"authorization|token$|^token|secret|password|api[-_]?key|private[-_]?key|cookie", re.IGNORECASE
)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)"
    r"|\bBearer\s+[^\s\"',]+"
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"  # a JWT: base64url of {"...
    r"|\blp[jkr]_[\w-]+"  # join tokens, API keys, refresh tokens
    r"|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)",  # user:password of a URL
    re.DOTALL,
)


def configure(
    service: str,
    instance: str,
    *,
    level: str = "info",
    format: str = "json",
    stream: TextIO | None = None,
) -> None:
    """Sends every log record of this process to ``stream`` (default stderr) as ``format``."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        ConsoleFormatter() if format == "console" else JsonFormatter(service, instance)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Chatty below warning, and of no use to whoever runs a service.
    for name in ("asyncio", "alembic", "sqlalchemy", "opentelemetry"):
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, service, instance, trace_id, fields."""

    def __init__(self, service: str, instance: str) -> None:
        super().__init__()
        self._constant = {"service": service, "instance": instance}

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": redact(record.getMessage()),
            **self._constant,
        }
        if trace_id := current_trace_id():
            entry["trace_id"] = trace_id
        entry.update(_fields(record))
        if record.exc_info:
            entry["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """``12:00:01 warning lepton_mesh.identity: renewal failed  error=...``"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():7} {record.name}: {redact(record.getMessage())}"
        for name, value in _fields(record).items():
            line += f"  {name}={value}"
        if record.exc_info:
            line += "\n" + redact(self.formatException(record.exc_info))
        return line


def redact(text: str) -> str:
    """``text`` without what looks like a credential."""
    return _SECRET_TEXT.sub(REDACTED, text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in vars(record).items():
        if name in _STANDARD:
            continue
        if _SECRET_NAME.search(name):
            fields[name] = REDACTED
        elif value is None or isinstance(value, bool | int | float):
            fields[name] = value
        else:
            fields[name] = redact(str(value))
    return fields


def _utc(seconds: float) -> str:
    whole, fraction = divmod(round(seconds * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{fraction:03d}Z"
