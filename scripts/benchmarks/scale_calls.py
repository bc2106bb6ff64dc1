"""The calls of `scripts/bench scale`: all over an index, and answered with as much in each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from random import Random
from typing import Any
from urllib.parse import urlencode

from indexer.lexicon.syntax import format_datetime
from scripts.benchmarks.scale_stage import (
    FEW,
    GARDEN,
    MANY,
    YEARS,
    Size,
    is_revoked,
    issuer,
    owner_of,
    verification,
)
from scripts.benchmarks.xrpc_stage import LIST, REVOKE, START, Owner, operators, request
from tests.support.frames import VERIFICATION
from xrpc.methods import page_cursor

LIST_VERIFICATIONS = "tools.ozone.verification.listVerifications"
REVOKE_VERIFICATIONS = "tools.ozone.verification.revokeVerifications"

PAGE = 25  # verifications
SEVERAL = 4  # issuers of a list
SUBJECTS = 20  # of a list
OF_ISSUER = 30  # subjects of a list that is of one issuer as well
LIFE = 60  # seconds of a token, as a PDS signs it
FULL_PAGES = 100  # verifications of an issuer whose pages are full, also in the middle

Params = dict[str, Any]
Filter = Callable[[Size, Random], Params]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of somebody; `body` is None for a query."""

    caller: Owner
    nsid: str
    params: Params
    body: Params | None = None

    def request(self) -> bytes:
        """Return it as it goes over the wire, with a token of its own."""
        query = f"?{urlencode(self.params, doseq=True)}" if self.params else ""
        return request(self.caller, self.nsid, query, self.body, life=LIFE)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of call: those to an index of a size, and whether an answer is a full one."""

    name: str
    calls: Callable[[Size, Random], Iterator[Call]]
    is_good: Callable[[Params], bool]


def lists() -> list[Kind]:
    """Return the kinds that only read."""
    return [
        _list_of_invites(FEW),
        _list_of_invites(MANY),
        *(_list_of_verifications(name, filtered) for name, filtered in FILTERS.items()),
    ]


def revocations() -> list[Kind]:
    """Return the kinds that revoke: each call something else, and of everybody in turn."""
    return [
        Kind("invite.revoke", _revoke_invites, lambda answer: answer == {"ok": True}),
        Kind(
            "revokeVerifications",
            _revoke_verifications,
            lambda answer: len(answer["revokedVerifications"]) == 1,
        ),
    ]


def greeting(caller: Owner) -> Call:
    """Return a call that finds nothing: after it the caller's document is at hand."""
    return Call(caller, LIST_VERIFICATIONS, {"limit": 1})


# --- lists ---


def _list_of_invites(share: int) -> Kind:
    """Return the lists of spaces that have just so many invites."""

    def make(size: Size, rng: Random) -> Iterator[Call]:
        spaces = [space for space, invited in enumerate(size.invited()) if invited == share]
        while True:
            owner = owner_of(rng.choice(spaces))
            yield Call(owner, LIST, {"spaceUri": owner.space(GARDEN)})

    live = share - sum(map(is_revoked, range(share)))
    return Kind(
        f"invite.list, {share} invites", make, lambda answer: len(answer["invites"]) == live
    )


def _list_of_verifications(name: str, filtered: Filter) -> Kind:
    """Return lists in either direction, of the first page and of one in the middle, in turn."""

    def make(size: Size, rng: Random) -> Iterator[Call]:
        uri = f"at://{Owner(0).did}/{VERIFICATION}/3k"
        for way, in_the_middle in cycle(product(("desc", "asc"), (False, True))):
            params = filtered(size, rng) | {"limit": PAGE, "sortDirection": way}
            if in_the_middle:
                params["cursor"] = page_cursor.encode((_about(2, rng), uri))
            yield Call(rng.choice(operators()), LIST_VERIFICATIONS, params)

    return Kind(
        f"listVerifications {name}",
        make,
        lambda answer: len(answer["verifications"]) == PAGE,
    )


def _about(quarter: int, rng: Random) -> int:
    """Return a moment about so many quarters behind the start of all, in Unix ms."""
    return START + YEARS * quarter // 4 + rng.randrange(YEARS // 50)


def _of_an_issuer(size: Size, rng: Random) -> Params:
    return {"issuers": [issuer(rng.choice(_with_full_pages(size))).did]}


def _of_issuers(size: Size, rng: Random) -> Params:
    return {"issuers": [issuer(n).did for n in rng.sample(_with_full_pages(size), SEVERAL)]}


def _with_full_pages(size: Size) -> list[int]:
    return [number for number, share in enumerate(size.issued()) if share >= FULL_PAGES]


def _of_subjects(size: Size, rng: Random) -> Params:
    return {"subjects": [Owner(n).did for n in rng.sample(range(size.subjects), SUBJECTS)]}


def _of_both(size: Size, rng: Random) -> Params:
    issued = size.issued()
    wrote = rng.choice([number for number, share in enumerate(issued) if share == max(issued)])
    first = rng.randrange(size.subjects)
    subjects = [size.subject(wrote, first + number) for number in range(OF_ISSUER)]
    return {"issuers": [issuer(wrote).did], "subjects": [subject.did for subject in subjects]}


def _of_a_time(_: Size, rng: Random) -> Params:
    return {
        "createdAfter": format_datetime(_about(1, rng)),
        "createdBefore": format_datetime(_about(3, rng)),
    }


FILTERS: dict[str, Filter] = {
    "of all": lambda size, rng: {},
    "of an issuer": _of_an_issuer,
    "of issuers": _of_issuers,
    "of subjects": _of_subjects,
    "of both": _of_both,
    "of a time": _of_a_time,
    "revoked": lambda size, rng: {"isRevoked": "true"},
    "of an issuer, not revoked": lambda *given: {**_of_an_issuer(*given), "isRevoked": "false"},
}


# --- revocations ---


def _revoke_invites(size: Size, rng: Random) -> Iterator[Call]:
    for space, number in _in_turn(size.invited(), rng):
        owner = owner_of(space)
        body = {"spaceUri": owner.space(GARDEN), "tokenHash": owner.token_hash(GARDEN, number)}
        yield Call(owner, REVOKE, {}, body)


def _revoke_verifications(size: Size, rng: Random) -> Iterator[Call]:
    for wrote, number in _in_turn(size.issued(), rng):
        body = {"uris": [verification(wrote, number)], "revokeReason": "an impostor"}
        yield Call(issuer(wrote), REVOKE_VERIFICATIONS, {}, body)


def _in_turn(shares: Sequence[int], rng: Random) -> Iterator[tuple[int, int]]:
    """Yield a first one of everybody, who come in any order, then a second one, and so on."""
    everybody = rng.sample(range(len(shares)), len(shares))
    for number in range(max(shares)):
        if not is_revoked(number):
            yield from ((who, number) for who in everybody if number < shares[who])
