"""`rescind run` says what it is and how it is, and ends as it should."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import sqlite3
import time

import httpx
import pytest

from tests.support.command import KEY, PASSWORD, free_address, last_line, rescind, world
from tests.support.fake_pds import DELETE, waiting
from tests.support.running_daemon import running
from tests.support.xrpc_world import ALICE, OPERATOR, World, eventually

__all__ = ["world"]  # fixtures


async def test_the_daemon_says_what_it_uses_and_where_but_no_secret(world: World) -> None:
    async with running(world) as daemon:
        assert await daemon.end(signal.SIGTERM) == 0
    banner = daemon.out.decode()
    for text in (
        str(world.settings.db), "ws://127.0.0.1:1", world.plc_host.url, daemon.url, OPERATOR,
        "did:web:localhost%3A", "RESCIND_SECRET_KEY",
    ):  # fmt: skip
        assert text in banner
    assert KEY not in banner + daemon.err.decode()
    assert {entry["event"] for entry in daemon.logged()} >= {
        "daemon.started", "daemon.stopping", "daemon.stopped",
    }  # fmt: skip


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_metrics_are_served_where_the_setting_says(world: World, elsewhere: bool) -> None:
    address = free_address()
    settings = {"METRICS_BIND": address} if elsewhere else {}
    async with running(world, **settings) as daemon, httpx.AsyncClient(trust_env=False) as client:
        beside = await client.get(f"{daemon.url}/metrics")
        assert beside.status_code == (404 if elsewhere else 200)
        if elsewhere:
            found = await client.get(f"http://{address}/metrics")
            assert "rescind_frames_total 0.0" in found.text
        assert await daemon.end(signal.SIGTERM) == 0
    assert f"{address if elsewhere else daemon.address}/metrics" in daemon.out.decode()


async def test_a_daemon_without_a_relay_says_that_it_is_not_well(world: World) -> None:
    async with running(world) as daemon, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{daemon.url}/xrpc/_health")
        assert answer.status_code == 503
        assert "has not been reached" in answer.json()["message"]
        assert await daemon.end(signal.SIGTERM) == 0


async def test_without_a_relay_it_serves_on_says_so_and_tries_again_later_and_later(
    world: World,
) -> None:
    async with running(world) as daemon:
        await asyncio.sleep(1.5)
        assert await daemon.answers()
        assert await daemon.end(signal.SIGTERM) == 0
    tries = [entry for entry in daemon.logged() if entry["event"] == "firehose.unreachable"]
    assert 1 <= len(tries) <= 10
    assert {entry["relay"] for entry in tries} == {"ws://127.0.0.1:1"}
    assert all(0 < entry["retry_in_s"] <= 60 for entry in tries)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_at_once_although_a_connection_is_kept_open(
    world: World, number: signal.Signals
) -> None:
    async with (
        running(world) as daemon,
        httpx.AsyncClient(trust_env=False, verify=False) as client,
    ):
        await client.get(f"{daemon.url}/.well-known/did.json")
        host, _, port = daemon.address.rpartition(":")
        _, silent = await asyncio.open_connection(host, int(port))
        _, slow = await asyncio.open_connection(host, int(port))
        slow.write(b"POST /xrpc/x HTTP/1.1\r\nHost:")
        await asyncio.sleep(0.1)
        started = time.monotonic()
        assert await daemon.end(number) == 0
        assert time.monotonic() - started < 3
        silent.close()
        slow.close()


async def test_a_call_under_way_is_answered_before_the_end_and_nothing_is_lost(
    world: World,
) -> None:
    await world.log_in(ALICE, world.pds)
    uri = await world.verification(ALICE)
    gate = asyncio.Event()
    world.pds.fail(DELETE, waiting(gate))
    async with running(world) as daemon:
        call = asyncio.create_task(daemon.call(uri))
        await eventually(lambda: is_busy(world))
        daemon.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        gate.set()
        answer = await call
        assert answer.json() == {"revokedVerifications": [uri], "failedRevocations": []}
        assert await daemon.end() == 0
    assert (await world.row(uri)).state == "sent"


async def is_busy(world: World) -> bool:
    return world.pds.busy[DELETE] > 0


async def test_a_second_daemon_on_the_database_is_refused_and_the_first_goes_on(
    world: World,
) -> None:
    async with running(world) as daemon:
        status, out, err = await rescind(world, "run", BIND=free_address())
        assert (status, out) == (1, "")
        assert err == f"Error: another daemon is running on {world.settings.db}\n"
        _, out, _ = await rescind(world, "status", "--json")
        assert json.loads(out)["daemon"]["pid"] == daemon.process.pid
        assert daemon.process.returncode is None


async def test_a_port_in_use_is_one_line_that_names_the_setting(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, out, err = await rescind(world, "run", BIND=address)
    assert (status, out) == (1, "")
    assert err == f"Error: RESCIND_BIND (--bind): {address}: Address already in use\n"


async def test_our_own_fault_ends_it_with_a_clear_last_line(world: World) -> None:
    async with running(world) as daemon:
        with contextlib.closing(sqlite3.connect(world.settings.db, timeout=10)) as db:
            db.execute("drop table outbox")
        assert await daemon.end() == 1
    assert last_line(daemon.err.decode()) == (
        "Error: the daemon died: OperationalError: no such table: outbox"
    )
    [entry] = [entry for entry in daemon.logged() if entry["event"] == "daemon.died"]
    assert "outbox" in entry["exception"]


async def test_a_login_beside_the_daemon_is_taken_up_by_it(world: World) -> None:
    uri = await world.verification(ALICE)
    await world.enqueue(uri)
    async with running(world) as daemon:
        await eventually(lambda: is_in(world, uri, "blocked"), 10)
        await rescind(world, "login", ALICE, stdin=PASSWORD)
        await eventually(lambda: is_in(world, uri, "sent"), 10)
        assert await daemon.end(signal.SIGTERM) == 0
    assert not re.search(r"eyJ[A-Za-z0-9]", daemon.err.decode())
    assert PASSWORD not in daemon.err.decode()


async def is_in(world: World, uri: str, state: str) -> bool:
    return (await world.row(uri)).state == state
