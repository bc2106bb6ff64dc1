"""Who is refused learns which claim failed, which way, by how much, and what to do about it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.account_keys import Key, document, jwt
from tests.support.xrpc_world import ALICE, BOB, REVOKE_INVITE, World, make_world
from xrpc.auth.callers import ServiceAuth
from xrpc.errors import AuthRequiredError

K256 = Key.k256()
REMEDY = (
    "; com.atproto.server.getServiceAuth of your PDS gives the right token, "
    f"with aud=did:web:rescind.test and lxm={REVOKE_INVITE}"
)
CLOCK = " by the clock here; the clock of your PDS may be 60 s ahead or behind"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        made.plc.documents[ALICE] = document(ALICE, K256)
        yield made


async def refusal(world: World, authorization: str | None) -> AuthRequiredError:
    auth = await ServiceAuth.open(world.settings, world.resolver, world.db, clock=world.clock)
    with pytest.raises(AuthRequiredError) as caught:
        await auth.authenticate(authorization, REVOKE_INVITE)
    return caught.value


def token(world: World, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """Return a good token, but for changes; ... leaves a claim out, times are from now on."""
    now = int(world.clock())
    claims = {
        "iss": ALICE,
        "aud": "did:web:rescind.test",
        "lxm": REVOKE_INVITE,
        "exp": 60,
        "jti": "1",
    }
    claims = {name: value for name, value in (claims | changes).items() if value is not ...}
    for name in ("exp", "iat", "nbf"):
        if type(claims.get(name)) in {int, float}:
            claims[name] += now
    return jwt(K256, {"alg": "ES256K"} | (header or {}), claims)


REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"exp": -61}, "JwtExpired", f"exp: the token ended 61 s ago{CLOCK}"),
    ({"exp": -60.5}, "JwtExpired", f"exp: the token ended 61 s ago{CLOCK}"),
    ({"exp": -7_200}, "JwtExpired", f"exp: the token ended 7200 s ago{CLOCK}"),
    (
        {"exp": 3_661},
        "BadJwt",
        "exp: it is 61 s further in the future than the 3600 s that a token may live" + CLOCK,
    ),
    ({"iat": 90, "exp": 150}, "BadJwt", f"iat: it is 90 s in the future{CLOCK}"),
    ({"nbf": 60.25}, "BadJwt", f"nbf: it is 61 s in the future{CLOCK}"),
    ({"exp": "soon"}, "BadJwt", "exp: it must be a number of Unix seconds"),
    ({"iat": True}, "BadJwt", "iat: it must be a number of Unix seconds"),
    ({"exp": ...}, "BadJwt", "exp: it must be a number of Unix seconds"),
    ({"aud": "did:web:x.y"}, "BadJwtAudience", "aud: the token is for another service"),
    ({"aud": ...}, "BadJwt", "aud: the token has none, or one that is no text"),
    ({"lxm": "x.y.z"}, "BadJwtLexiconMethod", "lxm: the token is for another method"),
    ({"lxm": ...}, "BadJwtLexiconMethod", "lxm: the token has none, or one that is no text"),
    ({"iss": ...}, "BadJwt", "iss: the token has none, or one that is no text"),
    (
        {"iss": f"{ALICE}#atproto"},
        "BadJwtIss",
        "iss: it must be the bare DID of an account, of PLC or of the web",
    ),
    ({"jti": 1}, "BadJwt", "jti: it must be a text of at most 128 characters"),
    (
        {"header": {"alg": "HS256"}},
        "BadJwt",
        "alg: it must be ES256K or ES256, as the key of the account",
    ),
    (
        {"header": {"kid": "#other"}},
        "BadJwt",
        "kid: it must be #atproto, of the DID document of iss, or left out",
    ),
    (
        {"header": {"typ": "dpop+jwt"}},
        "BadJwtType",
        "typ: the token is of another class; it must be JWT, or left out",
    ),
    (
        {"header": {"jwk": {}}},
        "BadJwt",
        "the header must bring neither keys nor extensions of JWS",
    ),
    (
        {"header": {"alg": "ES256"}},
        "BadJwtSignature",
        "signature: it is not, with this alg, of the key #atproto in the DID document of iss",
    ),
]


@pytest.mark.parametrize(("changes", "error", "why"), REFUSALS, ids=lambda value: str(value)[:40])
async def test_a_refusal_names_the_claim_and_the_remedy(
    world: World, changes: dict[str, Any], error: str, why: str
) -> None:
    refused = await refusal(world, f"Bearer {token(world, **changes)}")
    assert (refused.error, refused.message) == (error, why + REMEDY)
    assert refused.headers == {"www-authenticate": 'Bearer realm="atproto", error="invalid_token"'}


async def test_the_remedy_for_an_issuer_that_no_directory_gives_is_time(world: World) -> None:
    refused = await refusal(world, f"Bearer {token(world, iss=BOB)}")
    why = "iss: its DID document could not be had; try again later"
    assert (refused.error, refused.message) == ("BadJwtIss", why)


@pytest.mark.parametrize("authorization", [None, "", "Basic YTpi", "DPoP x"])
async def test_who_sends_no_token_is_told_how(world: World, authorization: str | None) -> None:
    refused = await refusal(world, authorization)
    why = "send a service-auth token as `Authorization: Bearer`"
    assert (refused.error, refused.message) == ("AuthMissing", why + REMEDY)
    assert refused.headers == {"www-authenticate": 'Bearer realm="atproto"'}


async def test_what_can_not_be_read_is_told_to_be_no_jwt(world: World) -> None:
    for part in ("x", "a.b.c", ".".join(3 * ["bnVsbA"])):
        refused = await refusal(world, f"Bearer {part}")
        assert refused.error == "BadJwt"
        assert refused.message.startswith("the token is not a JWT: ")
        assert refused.message.endswith(REMEDY)


async def test_two_tokens_in_one_header_are_refused(world: World) -> None:
    one = f"Bearer {token(world)}"
    refused = await refusal(world, f"{one}, {one}")
    assert refused.message == "Authorization: send one header with one token" + REMEDY


async def test_an_example_of_a_good_token(world: World) -> None:
    auth = await ServiceAuth.open(world.settings, world.resolver, world.db, clock=world.clock)
    header = f"Bearer {token(world)}"
    assert (await auth.authenticate(header, REVOKE_INVITE)).did == ALICE
    with pytest.raises(AuthRequiredError) as caught:
        await auth.authenticate(header, REVOKE_INVITE)
    why = "jti: this token was used, and a procedure takes each once"
    assert (caught.value.error, caught.value.message) == ("JwtReplayed", why + REMEDY)
