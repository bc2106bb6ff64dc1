"""Every statement that SQLite is asked, by whom, and what it does for it."""

import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import pytest

from indexer import store
from indexer.store import connections, db, migrations
from indexer.store.connections import Threaded
from indexer.store.near import Near

# Of these there are a few, however long a daemon runs: rows for each relay host, for each reason,
# for each account that logged in here.
SMALL = {"cursors", "daemon", "counters", "backfills", "sessions", "sqlite_schema"}
# What many rows have in common: to search by these alone is to go through all of those.
COMMON = {"state", "kind", "cause", "revoked", "sync", "hosting"}

_UNPLANNED = ("begin", "pragma", "create")
_PASSED_THROUGH = ("contextlib", "indexer.store.db", "indexer.store.groups", __name__)
_PASSED_THROUGH += ("indexer.store.connections",)
_STORE = "indexer.store."


@dataclass(slots=True)
class Statements:
    """What was asked, with parameters of one time, by who asked: `outbox.claim`."""

    params: dict[tuple[str, str], Any] = field(default_factory=dict)

    @property
    def askers(self) -> set[str]:
        return {asker for asker, _ in self.params}

    async def findings(self, reader: db.Reader) -> dict[str, set[str]]:
        """Return what the plans have in them that grows, by who asked."""
        found: dict[str, set[str]] = {}
        for (asker, sql), params in self.params.items():
            plan = await reader.all(f"explain query plan {sql}", params)
            found.setdefault(asker, set()).update(growing(plan))
        return {asker: steps for asker, steps in found.items() if steps}


@contextmanager
def recording() -> Iterator[Statements]:
    """Note what every connection is asked, but for what tests ask themselves."""
    asked = Statements()

    def noting(kind: type[Near] | type[Threaded], name: str) -> Callable[..., Any]:
        ask = getattr(kind, name)

        def note(connection: Near | Threaded, sql: str, params: Any) -> Any:
            asker = _asker()
            if asker is not None and sql.split(maxsplit=1)[0] not in _UNPLANNED:
                one = params[0] if name == "run_many" else params
                asked.params.setdefault((asker, sql), one)
            return ask(connection, sql, params)

        return note

    with pytest.MonkeyPatch.context() as patch:
        for kind in (Near, Threaded):
            for name in ("fetch", "run", "run_many"):
                patch.setattr(kind, name, noting(kind, name))
        yield asked


def _asker() -> str | None:
    """Return the function that asks for a statement; None if it is a test's."""
    frame = sys._getframe(2)
    while (module := frame.f_globals["__name__"]).startswith(_PASSED_THROUGH):
        assert frame.f_back
        frame = frame.f_back
    if module.startswith("tests."):
        return None
    return f"{module.removeprefix(_STORE)}.{frame.f_code.co_name}"


def growing(plan: Sequence[Any]) -> set[str]:
    """Return the steps of a plan (`explain query plan`) that take longer the more there is.

    A `scan` goes through a whole table, a `range` through a part of it, or of an index, that no
    equality narrows down, `automatic` through all of it to make an index, and a `sort` takes all
    before the first.
    """
    made = set()
    for step in plan:
        if match := re.match(r"(?:CO-ROUTINE|MATERIALIZE) (\S+)", step["detail"]):
            made.add((step["parent"], match[1]))
    found = set()
    for step in plan:
        if "TEMP B-TREE" in step["detail"]:
            found.add("sort")
        match re.match(r"(SCAN|SEARCH) (\S+)(.*)", step["detail"]):
            case None:
                pass
            case use if use[2] in SMALL or (step["parent"], use[2]) in made:
                pass  # what was made on the way has steps of its own
            case use if "VIRTUAL TABLE" in use[3] or "CONSTANT ROW" in use[0]:
                pass  # a list that was given
            case use if "AUTOMATIC" in use[3]:
                found.add(f"automatic {use[2]}")
            case use if use[1] == "SCAN":
                found.add(f"scan {use[2]}")
            case use if not set(re.findall(r"(\w+)=\?", use[3])) - COMMON:
                index = re.search(r"INDEX (\S+)", use[3])
                found.add(f"range {index[1] if index else use[2]}")
    return found


def functions_of_the_store() -> set[str]:
    """Return all that can be asked of the store: `outbox.claim`."""
    modules = [import_module(_STORE + name) for _, name, _ in pkgutil.iter_modules(store.__path__)]
    return {
        f"{module.__name__.removeprefix(_STORE)}.{name}"
        for module in modules
        if module not in (connections, db, migrations)
        for name, what in vars(module).items()
        if inspect.iscoroutinefunction(what) and what.__module__ == module.__name__
    }
