"""Where the daemon listens: `[::]` is every address of the machine."""

import socket

import pytest

from indexer.cli.daemon import _listen
from tests.support.command import free_address


def test_all_of_ipv6_is_all_of_ipv4_too() -> None:
    """Or a daemon at `[::]:8080` would be found by half of its clients, as the system likes."""
    port = free_address().rpartition(":")[2]
    with _listen("bind", f"[::]:{port}") as listening:
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, int(port)), timeout=5):
                made, _ = listening.accept()
                made.close()


def test_one_address_of_ipv6_is_that_one_alone() -> None:
    port = free_address().rpartition(":")[2]
    with _listen("bind", f"[::1]:{port}"), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=5)
