"""Structured logs: pretty on a terminal, JSON elsewhere, and never a secret in them.

An event is `noun.past_verb`; its values are keys with the names of the specification.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["pretty", "json"]

MAX_DEPTH = 6  # levels of a value that are looked through
QUIET = 60.0  # seconds in which one kind of a stranger's fault is told once
MAX_KINDS = 200  # that are remembered; beyond it a new kind is not told

# The last line of defence: a token or password has no business in a log call to begin with.
_SECRET_KEYS = re.compile(r"token|jwt|password|secret|authorization|cookie|sealed", re.IGNORECASE)
_PUBLIC_KEYS = frozenset(("token_hash", "tokenHash"))
_SECRETS = re.compile(
    r"""
      (?P<jwt> eyJ[\w-]{8,}\.[\w-]+\.[\w-]*)
    | (?P<app_password> \b[a-z0-9]{4}(?:-[a-z0-9]{4}){3}\b)
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)                                # user and password of a URL
    | (?i: (?<=bearer\ ) | (?<=basic\ ) | (?<=dpop\ ) ) [\w.~+/=-]{10,}
    | (?i: (?<=password) | (?<=secret) | (?<=jwt) ) ["']?\s*[=:]\s*["']?[^\s"',}]+
    """,
    re.VERBOSE | re.ASCII,
)
# What a stranger wrote could steer the terminal that shows it.
_STEERING = dict.fromkeys({*range(32), *range(127, 160)} - {9, 10}, "\ufffd")


def configure(level: Level, output: Format | None = None) -> None:
    """Set up logging to stderr for the whole process; `output` None: by what stderr is."""
    pretty = sys.stderr.isatty() if output is None else output == "pretty"
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[structlog.types.Processor] = [
        # Before the secrets are looked for. It shows no local variables, which are full of them.
        structlog.processors.format_exc_info,
        redact,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if pretty
        else structlog.processors.JSONRenderer(ensure_ascii=False),
    ]
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
    """Replace what looks like a secret, by its key or by its form, however deep it lies."""
    for key, value in event.items():
        event[key] = _redacted(key, value, MAX_DEPTH)
    return event


def _redacted(key: object, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value  # a count of tokens is no token
    if isinstance(key, str) and _SECRET_KEYS.search(key) and key not in _PUBLIC_KEYS:
        return "[redacted]"
    if depth and isinstance(value, Mapping):
        return {str(name): _redacted(name, item, depth - 1) for name, item in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_redacted(None, item, depth - 1) for item in value]
    text = value if isinstance(value, str) else repr(value)
    return _SECRETS.sub("[redacted]", text).translate(_STEERING)


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module, by its short name."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


class OnceAMinute:
    """Tells what strangers can trigger at will: the first of a kind, and no more for a minute.

    Each line has `times`: how many of the kind there were since the last one. `clock` gives
    seconds, never back.
    """

    def __init__(
        self,
        logger: structlog.typing.FilteringBoundLogger,
        event: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._event = event
        self._clock = clock
        self._told: dict[tuple[str | None, ...], float] = {}  # when, by kind
        self._untold: dict[tuple[str | None, ...], int] = {}

    def tell(self, *kind: str | None, **values: object) -> None:
        """Note one of a kind, which is among the values of a closed set."""
        now = self._clock()
        if now - self._told.get(kind, float("-inf")) < QUIET:
            self._untold[kind] = self._untold.get(kind, 0) + 1
            return
        if len(self._told) >= MAX_KINDS:
            self._told = {old: at for old, at in self._told.items() if now - at < QUIET}
            self._untold = {old: n for old, n in self._untold.items() if old in self._told}
            if len(self._told) >= MAX_KINDS:
                return
        self._told[kind] = now
        times = self._untold.pop(kind, 0) + 1
        self._logger.warning(self._event, **values, times=times)
