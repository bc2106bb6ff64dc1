"""From which address a request comes, also behind a proxy that the operator trusts."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

MAX_HOPS = 10  # entries of a header that are looked at
MAX_PEERS = 1_000  # whose addresses are remembered as they are shown

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# An IPv6 host has its network's 2^64 addresses to choose from: the network is the caller.
_PREFIX = 64  # bits


class Addresses:
    """`proxies` are the addresses and networks whose `X-Forwarded-For` is believed; most are none.

    Anyone can send that header, so it counts only as far as trusted proxies wrote it: of its
    entries, read from the end, the first that is no trusted proxy is the caller.
    """

    def __init__(self, proxies: Iterable[str]) -> None:
        self._proxies: list[Network] = [ipaddress.ip_network(proxy) for proxy in proxies]

    def caller(self, peer: str | None, forwarded: Iterable[str]) -> str:
        """Return the address behind a connection: its peer, or who the proxies say it is for.

        `forwarded` are the values of the header, in order. An entry that is no address ends the
        search: what is before it is of no worth, and the last proxy that was found is the caller.
        """
        if not self._proxies:
            return _shown_peer(peer or "")
        found = _parse(peer or "")
        if found is None:
            return peer or ""  # a socket without addresses
        hops = ",".join(forwarded).split(",")[-MAX_HOPS:]
        for hop in reversed(hops):
            if not self._is_trusted(found):
                break
            address = _parse(hop.strip())
            if address is None:
                break
            found = address
        return _shown(found)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in proxy for proxy in self._proxies)


def _parse(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(MAX_PEERS)
def _shown_peer(peer: str) -> str:
    address = _parse(peer)
    return _shown(address) if address else peer  # a socket without addresses


def _shown(address: Address) -> str:
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((int(address), _PREFIX), strict=False))
