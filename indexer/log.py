"""Structured logs: pretty on a terminal, JSON elsewhere, and never a secret in them.

An event is `noun.past_verb`; its values are keys with the names of the specification.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["pretty", "json"]

# The last line of defence: a token or password has no business in a log call to begin with.
_SECRET_KEYS = re.compile(r"token|jwt|password|secret|authorization|cookie|sealed", re.IGNORECASE)
_PUBLIC_KEYS = frozenset(("token_hash",))
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_APP_PASSWORD = re.compile(r"\b[a-z0-9]{4}(?:-[a-z0-9]{4}){3}\b")


def configure(level: Level, output: Format | None = None) -> None:
    """Set up logging to stderr for the whole process; `output` None: by what stderr is."""
    pretty = sys.stderr.isatty() if output is None else output == "pretty"
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[structlog.types.Processor] = (
        [redact, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if pretty
        else [
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    )
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard library: their warnings come out in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def redact(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what looks like a secret, by its key or by its form."""
    for key, value in event.items():
        if isinstance(value, str):
            if _SECRET_KEYS.search(key) and key not in _PUBLIC_KEYS:
                event[key] = "[redacted]"
            else:
                event[key] = _APP_PASSWORD.sub("[redacted]", _JWT.sub("[redacted]", value))
    return event


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module, by its short name."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return logger
