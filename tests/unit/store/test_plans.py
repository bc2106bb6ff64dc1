"""However much is in the index, what a call or an event asks of it is searched for, not scanned.

The statements are not listed here: they are noted while the work is done. So what is asked from
now on is looked at as well; if nobody asks it here, a test says so.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from indexer.cli.daemon import daemon_checkpoint
from indexer.repos import backfill
from indexer.rules.projection import Desynchronize
from indexer.store import (
    backfills,
    cursors,
    daemon,
    invite_tokens,
    invites,
    outbox,
    repos,
    resyncs,
    sessions,
    used_tokens,
)
from indexer.store.backfills import ALL_REPOS, Search
from indexer.store.cursors import Cursor
from indexer.store.db import Transaction
from indexer.stream.stats import Stats
from tests.support import xrpc_world as worlds
from tests.support.frames import (
    ALICE,
    BOB,
    COLLECTIONS,
    INVITE,
    SPACE,
    VERIFICATION,
    hash_of,
    invite,
    space,
    verification,
)
from tests.support.index_file import RELAY, Index, Repo, opened
from tests.support.method_cases import CASES, Asked
from tests.support.query_plans import Statements, functions_of_the_store, growing, recording
from tests.support.served_methods import DESCRIBED, Service, serving
from tests.support.streamed_repo import Owner
from xrpc.methods.table import METHODS
from xrpc.publishing import publisher

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What may grow, and why that does no harm.
KEYSET = "a range of the key, cut at a limit"
AT_ONCE = "all of it is what it is about: every repo is to be checked again, or a daemon starts"
COUNTED = "counts of `/metrics`: by a connection of its own, and not more often than each 15 s"
REASONS: dict[str, tuple[set[str], str]] = {
    "spaces.of_owner": ({"range spaces"}, KEYSET),
    "verifications.read": (
        {"range verifications_by_time", "sort"},
        "each part is a range that is cut at the limit, and there are only so many parts",
    ),
    "outbox.due_repos": ({"range outbox_due", "sort"}, "those that are due; what is done is not"),
    "resyncs.due": ({"range repos_to_resync", "range repos_to_ask"}, "those that are due"),
    "repos.newcomers": ({"range repos"}, "those since the last look"),
    "records.uris_of_repo": ({"sort"}, "one repo's records, beside a copy of all of it"),
    "members.count_added": (
        {"range members_added"},
        "those that one owner added: there is a limit",
    ),
    "members.purge_repo": ({"range members"}, "those of one account's spaces"),
    "repos.desynchronize_all": ({"scan repos"}, AT_ONCE),
    "backfills.advance": ({"scan repos"}, "those that wait, once a search is over"),
    "backfills.has_come_to_an_end": (
        {"scan repos"},
        "those that a search found and nobody tried; of an index of these",
    ),
    "invite_tokens.decide_all": (
        {"scan invite_tokens"},
        "every token: once a search for repos is over",
    ),
    "repos.forget_hosting_seqs": ({"scan repos"}, AT_ONCE),
    "resyncs.refetch_all": ({"scan repos"}, AT_ONCE),
    "resyncs.release": ({"scan repos"}, AT_ONCE),
    "used_tokens.living": ({"range used_tokens_by_end"}, "those that live, as a daemon starts"),
    "used_tokens.take": ({"range used_tokens_by_end"}, "those that ended, cut at a limit"),
    "outbox.release": ({"range outbox_by_state"}, "those that wait, as a daemon starts"),
    "repos.count_by_state": ({"scan repos", "sort"}, COUNTED),
    "resyncs.queue": ({"scan repos"}, f"{COUNTED}; of an index of those that wait"),
    "outbox.oldest_by_state": ({"range outbox_by_state"}, "the first of each state: one look"),
    "tombstones.count_by_kind": ({"scan tombstones"}, COUNTED),
    "outbox.count_by_state": ({"scan outbox"}, COUNTED),
}

# What an operator asks at the terminal may take its time.
AT_THE_TERMINAL = {
    "all_spaces.page",
    "audit.of_subject",
    "backfills.collections",
    "daemon.counters",
    "invites.count_live",
    "outbox.drop",
    "outbox.listing",
    "outbox.retry_now",
    "repos.sample",
    "resyncs.ask",
    "resyncs.count",
    "resyncs.load",
    "resyncs.retry_all",
    "audit.forget_details",
    "members.remove_account",
    "outbox.forget_undone",
    "pause.begin",
    "pause.end",
    "repos.forget_contents",
    "sessions.delete",
    "sessions.delete_all",
    "sessions.reseal",
    "tombstones.date_back",
    "tombstones.forget_reasons",
    "sessions.listing",
    "spaces.count_live",
    "verifications.count_live",
}


async def call_method(service: Service, nsid: str) -> None:
    """Ask a method for whatever its document allows, and the daemon how it is."""
    asked = await CASES[nsid].works(service.world)
    for edge in DESCRIBED[nsid].edges(asked.given):
        await service.ask(nsid, Asked(asked.caller, edge.given))
    await service.ask(nsid, Asked(asked.caller, DESCRIBED[nsid].example()))
    for path in ("/metrics", "/xrpc/_health"):
        assert (await service.world.request("GET", path)).status_code == 200


async def call_to_fail(service: Service, nsid: str) -> None:
    """Ask for each error that a method declares."""
    for arrange in CASES[nsid].fails.values():
        answer = await service.ask(nsid, await arrange(service.world))
        assert answer.status_code != 200


async def follow_the_stream(index: Index) -> None:
    """Apply events of every kind, and a copy of a repo."""
    alice, bob = Repo(ALICE), Repo(BOB)
    garden, one, check = f"{SPACE}/garden", f"{INVITE}/one", f"{VERIFICATION}/3k"
    mine, theirs = invite(alice.uri(garden)), invite(bob.uri(garden))
    for repo in (alice, bob):
        await index.apply(repo.commit({garden: space(), one: mine, check: verification()}))
        await index.apply(repo.commit({one: theirs, check: {"no": "verification"}}))
        await index.apply(repo.commit({one: None, garden: None}))
        await index.apply(repo.rejected(repo.rev), repo.sync(data="other"))
        await index.apply(repo.account(False, "suspended"), repo.account(True))
    await index.apply(bob.account(False, "deleted"), Desynchronize(renumbered=True))
    owner = Owner()
    owner.wrote({garden: space(), check: verification()})
    async with index.db.transaction() as tx:
        await resyncs.refetch_all(tx)  # or a copy of what is known says nothing
        await index.projection.reconcile(tx, owner.copy(), index.now)


async def run_a_daemon(tx: Transaction) -> None:
    """Ask what a daemon asks between calls and events, when it starts and when things go wrong."""
    now, uris = 5, [f"at://{ALICE}/{VERIFICATION}/3k"]
    await daemon.start(tx, pid=1, version="1", relay=RELAY, now=now)
    await daemon.load(tx)
    stats = Stats()
    stats.skipped["other_collection"] += 1
    await daemon_checkpoint(RELAY, stats)(tx, Cursor(1, None))
    await cursors.load(tx, RELAY)
    await cursors.forget(tx, RELAY)
    await repos.newcomers(tx, 0)
    await used_tokens.living(tx, now)
    await used_tokens.take(tx, bytes(32), ALICE, now, now)
    # The publisher, and its sessions.
    await outbox.mark_gone(tx, uris[0], "", now)
    await outbox.mark_failed(tx, uris, "no", now=now, retry_at=now)
    await outbox.postpone(tx, ALICE, "no", now=now, retry_at=now)
    await outbox.block_repo(tx, ALICE, "no", now)
    await sessions.refresh(tx, ALICE, "https://pds.test", b"old", b"new", now)
    await sessions.refuse(tx, ALICE, b"new", "no")
    await invites.was_revoked(tx, hash_of("token"), ALICE)
    await invite_tokens.space_of(tx, hash_of("token"), "0" * 32)
    # Repos that are fetched whole.
    await resyncs.release(tx, now)
    await resyncs.due(tx, now, 100)
    await resyncs.claim(tx, [ALICE], now)
    await resyncs.put_off(tx, ALICE, "no", now)
    await resyncs.postpone(tx, ALICE, now)
    await resyncs.mark_whole(tx, ALICE, "3l")
    await repos.set_hosting(tx, ALICE, "active", None)
    await resyncs.end(tx, ALICE)
    await daemon.count_resync(tx, "proof", 4_000, 2)
    # The search for more of them.
    await backfill.begin(tx, RELAY, COLLECTIONS)
    await backfills.search_all(tx, RELAY)
    search = Search(ALL_REPOS, None, 0, done=False)
    await backfills.rewind(tx, RELAY, search)
    await backfills.load(tx, RELAY)
    await repos.track(tx, [ALICE, BOB], now)
    await backfills.advance(tx, RELAY, search, None, 2, now)
    assert not await backfills.has_come_to_an_end(tx, RELAY)
    await invite_tokens.decide_all(tx)
    await backfills.settle(tx, RELAY)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def index(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Index]:
    async with opened(tmp_path_factory.mktemp("index")) as index:
        yield index


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Statements:
    """What is asked while all is done that there is to do."""
    with recording() as statements, pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "POLL", 0.02)
        for nsid in METHODS:
            for call in (call_method, call_to_fail):
                folder = tmp_path_factory.mktemp("calls")
                async with serving(folder) as service, service.world.streaming():
                    for account in (worlds.ALICE, worlds.BOB, worlds.CAROL):
                        await service.world.account(account)
                    await call(service, nsid)
        await follow_the_stream(index)
        async with index.db.transaction() as tx:
            await run_a_daemon(tx)
    return statements


async def test_what_a_call_or_an_event_asks_is_searched_for(
    index: Index, asked: Statements
) -> None:
    assert await index.db.one("select 1 from sqlite_schema where name = 'sqlite_stat1'") is None
    findings = await asked.findings(index.db)
    allowed = {asker: steps for asker, (steps, _) in REASONS.items()}
    grown = {asker: steps - allowed.get(asker, set()) for asker, steps in findings.items()}
    assert {asker: steps for asker, steps in grown.items() if steps} == {}


async def test_all_that_the_store_can_be_asked_is_asked_here(asked: Statements) -> None:
    assert functions_of_the_store() - asked.askers == AT_THE_TERMINAL
    assert REASONS.keys() <= asked.askers


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("select 1 from repos where did = 'x'", set()),
        ("select 1 from repos where did in (select value from json_each('[]'))", set()),
        ("select 1 from repos where rev = 'x'", {"scan repos"}),
        ("select 1 from repos as those where rev = 'x'", {"scan those"}),
        ("select 1 from sessions where handle = 'x'", set()),
        ("select 1 from tombstones where kind = 'space'", {"range tombstones_by_kind"}),
        ("select 1 from repos where id > 7 limit 1", {"range repos"}),
        ("update outbox set due_at = 0 where error = 'x'", {"scan outbox"}),
        ("select uri from verifications where did = 'x' order by handle", {"sort"}),
        ("select uri from spaces where did = 'x' union select 'x'", {"sort"}),
        ("select 1 from (select * from spaces where did = 'x' limit 5) as spaces", set()),
        ("select 1 from (select * from spaces limit 5) as spaces", {"scan spaces"}),
        (
            "select 1 from audit as a join audit as b on a.detail = b.detail",
            {"scan a", "automatic b"},
        ),
    ],
)
async def test_what_grows_is_seen_in_a_plan(index: Index, sql: str, found: set[str]) -> None:
    assert growing(await index.db.all(f"explain query plan {sql}")) == found
