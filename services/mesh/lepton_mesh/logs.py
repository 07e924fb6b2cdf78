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
from dataclasses import dataclass
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
    """Sends every log record of this process to ``stream`` (default stderr) as ``format``.

    What is written may be changed while the process runs: see :func:`change_settings`.
    """
    handler = _Handler(stream or sys.stderr, JsonFormatter(service, instance))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    least = logging.getLevelNamesMapping()[level.upper()]
    handler.apply(
        LogSettings(
            debug=least <= logging.DEBUG,
            info=least <= logging.INFO,
            warning=least <= logging.WARNING,
            format=format,
        )
    )
    # Chatty below warning, and of no use to whoever runs a service.
    for name in ("asyncio", "alembic", "sqlalchemy", "opentelemetry"):
        logging.getLogger(name).setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What of a process' log is written, and how."""

    debug: bool = False
    info: bool = True
    warning: bool = True
    error: bool = True
    """What is worse than an error goes with errors."""
    format: str = "json"
    """One of FORMATS."""


FORMATS: Final = ("json", "console")


def settings() -> LogSettings:
    """How this process logs; LookupError where :func:`configure` was never called."""
    return _handler().settings


def change_settings(wanted: LogSettings) -> None:
    """Logs so from the next record on; LookupError as above."""
    _handler().apply(wanted)


class _Handler(logging.StreamHandler[TextIO]):
    """The one handler of a process; lets the levels through that are wanted."""

    def __init__(self, stream: TextIO, json_formatter: logging.Formatter) -> None:
        super().__init__(stream)
        self._json = json_formatter
        self.settings = LogSettings()

    def apply(self, wanted: LogSettings) -> None:
        self.settings = wanted
        self.setFormatter(ConsoleFormatter() if wanted.format == "console" else self._json)
        # What nobody wants is not even made into a record.
        levels = {logging.DEBUG: wanted.debug, logging.INFO: wanted.info}
        levels |= {logging.WARNING: wanted.warning, logging.ERROR: wanted.error}
        least = (level for level, is_wanted in levels.items() if is_wanted)
        logging.getLogger().setLevel(next(least, logging.CRITICAL + 1))

    def filter(self, record: logging.LogRecord) -> bool:
        wanted = self.settings
        if record.levelno >= logging.ERROR:
            passes = wanted.error
        elif record.levelno >= logging.WARNING:
            passes = wanted.warning
        elif record.levelno >= logging.INFO:
            passes = wanted.info
        else:
            passes = wanted.debug
        return passes


def _handler() -> _Handler:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            return handler
    raise LookupError("the log of this process was not configured")


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
