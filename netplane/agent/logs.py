"""Log lines of the daemon: a fixed phrase and fields, on standard error, as text or JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from netplane.errors import one_line

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class _Lines(logging.Formatter):
    """`2026-11-21T04:00:00.123Z INFO reconciled made=3 swept=1`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_text(value)}" for name, value in _fields(record).items())
        return f"{_when(record)} {record.levelname} {record.getMessage()} {fields}".rstrip()


class _Json(logging.Formatter):
    """One object a line: time, level, message and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        head = {"time": _when(record), "level": record.levelname, "message": record.getMessage()}
        return json.dumps(head | _fields(record), default=str)


def log_to_stderr(style: str) -> None:
    """Send netplane's log lines to standard error; `style` is "text" or "json"."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(_Json() if style == "json" else _Lines())
    logger = logging.getLogger("netplane")
    logger.handlers = [lines]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _text(value: object) -> str:
    text = one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text
