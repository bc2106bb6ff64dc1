"""Tokens are taken as real libraries make them and as real PDSes write them."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.localnet.process import HERE, NODE
from tests.support.account_keys import Key, document
from tests.support.xrpc_world import ALICE, BOB, REVOKE_VERIFICATIONS, World, make_world
from xrpc.auth.callers import Caller, ServiceAuth
from xrpc.errors import AuthRequiredError

K256, P256 = Key.k256(), Key.p256()
OWNERS = {K256.alg: (ALICE, K256), P256.alg: (BOB, P256)}

BY_NODE = [
    "xrpc-server ES256K low S",
    "xrpc-server ES256 low S",
    "jose ES256K low S",
    "jose ES256K high S",
    "jose ES256 low S",
    "jose ES256 high S",
    "WebCrypto ES256 low S",
    "WebCrypto ES256 high S",
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        for did, key in OWNERS.values():
            made.plc.documents[did] = document(did, key)
        yield made


def claims(world: World, **more: Any) -> dict[str, Any]:
    now = int(world.clock())
    return {"aud": world.settings.service_did, "lxm": REVOKE_VERIFICATIONS, "exp": now + 60, **more}


async def authenticate(world: World, *tokens: str) -> list[Caller]:
    auth = await ServiceAuth.open(world.settings, world.resolver, world.db, clock=world.clock)
    return [await auth.authenticate(f"Bearer {one}", REVOKE_VERIFICATIONS) for one in tokens]


def has_high_s(token: str, key: Key) -> bool:
    signature = base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")
    return int.from_bytes(signature[32:]) > key.order // 2


def jwk(key: Key) -> dict[str, str]:
    made: dict[str, str] = pyjwt.algorithms.ECAlgorithm.to_jwk(key.private, as_dict=True)
    return made


def scalar(key: Key) -> str:
    return key.private.private_numbers().private_value.to_bytes(32).hex()


async def tokens_of_node(world: World) -> dict[str, str]:
    keys = {
        alg: {"iss": did, "jwk": jwk(key), "hex": scalar(key)} for alg, (did, key) in OWNERS.items()
    }
    given = json.dumps({"claims": claims(world, iat=int(world.clock())), "keys": keys})
    process = await asyncio.create_subprocess_exec(
        NODE, HERE / "tokens.mjs", given,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, f"is node_modules there? scripts/test brings it: {err.decode()}"
    made: dict[str, str] = json.loads(out)
    return made


async def test_tokens_of_the_javascript_libraries_are_taken_with_either_s(world: World) -> None:
    made = await tokens_of_node(world)
    assert sorted(made) == sorted(BY_NODE)
    for name, token in made.items():
        did, key = OWNERS[name.split()[1]]
        assert has_high_s(token, key) == ("high S" in name)
        assert await authenticate(world, token) == [Caller(did)], name


@pytest.mark.parametrize("alg", OWNERS)
async def test_tokens_of_pyjwt_are_taken_with_either_s(world: World, alg: str) -> None:
    did, key = OWNERS[alg]
    made: dict[bool, str] = {}
    serial = 0
    while len(made) < 2:
        serial += 1
        token = pyjwt.encode(claims(world, iss=did, jti=str(serial)), key.private, algorithm=alg)
        made.setdefault(has_high_s(token, key), token)
    assert await authenticate(world, made[False], made[True]) == [Caller(did)] * 2


async def test_the_other_s_of_a_used_token_is_the_same_token(world: World) -> None:
    for jti in ({}, {"jti": "1"}):
        token = pyjwt.encode(claims(world, iss=ALICE, **jti), K256.private, algorithm="ES256K")
        signed, _, signature = token.rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        other = (K256.order - int.from_bytes(raw[32:])).to_bytes(32)
        twin = base64.urlsafe_b64encode(raw[:32] + other).rstrip(b"=").decode()
        assert await authenticate(world, f"{signed}.{twin}") == [Caller(ALICE)]
        with pytest.raises(AuthRequiredError, match="was used"):
            await authenticate(world, token, f"{signed}.{twin}")


# --- as PDSes write them: who sends no `jti` sends no `iat` either, and ends after minutes ---

Make = Callable[[World, int], str]


def signed(world: World, given: dict[str, Any], headers: dict[str, Any] | None = None) -> str:
    return pyjwt.encode(given, K256.private, algorithm="ES256K", headers=headers)


def as_pegasus(world: World, exp: int) -> str:
    given = {"iss": ALICE, **claims(world, exp=exp)}
    return signed(world, given, {"crv": "secp256k1"})


def as_millipds(world: World, exp: int) -> str:
    return signed(world, {"iss": ALICE, **claims(world, exp=exp)})


def as_arroba(world: World, exp: int) -> str:
    return signed(world, {"iss": ALICE, "alg": "ES256K", **claims(world, exp=exp)})


FORMS: dict[str, Make] = {"pegasus": as_pegasus, "millipds": as_millipds, "arroba": as_arroba}


@pytest.mark.parametrize("pds", FORMS)
@pytest.mark.parametrize("minutes", [5, 10])
async def test_a_token_without_a_jti_is_taken_once_in_a_second(
    world: World, pds: str, minutes: int
) -> None:
    auth = await ServiceAuth.open(world.settings, world.resolver, world.db, clock=world.clock)
    exp = int(world.clock()) + 60 * minutes

    async def call(exp: int) -> Caller:
        header = f"Bearer {FORMS[pds](world, exp)}"
        return await auth.authenticate(header, REVOKE_VERIFICATIONS)

    assert await call(exp) == Caller(ALICE)
    with pytest.raises(AuthRequiredError) as caught:
        await call(exp)  # signed anew, and so another text, but of the same second
    assert caught.value.error == "JwtReplayed"
    assert "without a jti two of one second are one token" in caught.value.message
    assert await call(exp + 1) == Caller(ALICE)
    assert len(auth._used) == 2


def as_session(key: Any, alg: str, typ: str | None, **given: Any) -> str:
    """Return what a PDS has for a session; `typ` is not written where it is None."""
    return pyjwt.encode(given, key, algorithm=alg, headers={"typ": typ})


SECRET = "a secret of the PDS that is as long as such things are"
OAUTH = ec.generate_private_key(ec.SECP256R1())
SESSION = {"aud": "did:web:pds.example", "sub": ALICE, "iat": 0, "exp": 2_000_000_000}
OF_SESSIONS: dict[str, tuple[str, Callable[[], str]]] = {
    "of the reference PDS": (
        "an access token",
        lambda: as_session(SECRET, "HS256", "at+jwt", scope="com.atproto.access", **SESSION),
    ),
    "of the reference PDS, to refresh": (
        "a refresh token",
        lambda: as_session(SECRET, "HS256", "refresh+jwt", scope="com.atproto.refresh", **SESSION),
    ),
    "of an app password": (
        "an access token",
        lambda: as_session(SECRET, "HS256", None, scope="com.atproto.appPass", **SESSION),
    ),
    "of pegasus": (
        "an access token",
        lambda: as_session(
            K256.private, "ES256K", "JWT", scope="com.atproto.access", jti="1", **SESSION
        ),
    ),
    "of pegasus, to refresh": (
        "a refresh token",
        lambda: as_session(
            K256.private, "ES256K", "JWT", scope="com.atproto.refresh", jti="1", **SESSION
        ),
    ),
    "of OAuth": (
        "an access token",
        lambda: as_session(
            OAUTH, "ES256", "at+jwt", iss="https://pds.example", scope="atproto", **SESSION
        ),
    ),
}


@pytest.mark.parametrize("kind", OF_SESSIONS)
async def test_a_token_of_a_session_is_told_from_a_service_token(world: World, kind: str) -> None:
    what, make = OF_SESSIONS[kind]
    with pytest.raises(AuthRequiredError) as caught:
        await authenticate(world, make())
    assert caught.value.error == "BadJwtType"
    assert caught.value.message == (
        f"this is {what} of a session: it is for your PDS alone, send it there; "
        "com.atproto.server.getServiceAuth of your PDS gives the right token, "
        f"with aud={world.settings.service_did} and lxm={REVOKE_VERIFICATIONS}"
    )
