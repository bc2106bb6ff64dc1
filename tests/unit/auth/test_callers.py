"""A caller is who its token proves; any other token is a 401 that says little."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.account_keys import Key, b64, jwt
from tests.support.callers import (
    ALICE,
    BOB,
    K256,
    KEYLESS,
    METHOD,
    NOBODY,
    NOW,
    P256,
    US,
    World,
    claims,
    headed,
    header,
    token,
    world,
)
from xrpc.auth.callers import Caller
from xrpc.errors import XrpcError

__all__ = ["world"]  # fixtures

# --- what is accepted ---

ACCEPTED: dict[str, Callable[[], str]] = {
    "as a PDS sends it": token,
    "p256": lambda: token(P256, iss=BOB),
    "aud with fragment": lambda: token(aud=f"{US}#rescind"),
    "no iat": lambda: token(iat=...),
    "nbf": lambda: token(nbf=int(NOW)),
    "a PDS whose clock is ahead": lambda: token(iat=int(NOW) + 60, nbf=int(NOW) + 60),
    "an hour": lambda: token(exp=int(NOW) + 3600),
    "an hour of a clock ahead": lambda: token(exp=int(NOW) + 3660),
    "about to end": lambda: token(exp=int(NOW) + 1),
    "a PDS whose clock is behind": lambda: token(iat=int(NOW) - 119, exp=int(NOW) - 59),
    "ended just as long ago as clocks may differ": lambda: token(exp=NOW - 60),
    "exp and iat with a fraction": lambda: token(exp=NOW + 60.25, iat=NOW - 0.25),
    "nbf with a fraction": lambda: token(nbf=NOW),
    "a fraction in another notation": lambda: raw_times("1.8000000605e9"),
    "no jti": lambda: token(jti=...),
    "jti null": lambda: token(jti=None),
    "jti empty": lambda: token(jti=""),
    "a signature with high S": lambda: with_high_s(K256, iss=ALICE),
    "a signature with high S of p256": lambda: with_high_s(P256, iss=BOB),
    "jti of one character": lambda: token(jti="ü"),
    "jti of 128 characters": lambda: token(jti="x" * 128),
    "other claims": lambda: token(sub="x", nonce=[{"a": None}], scope=7),
    "no typ": lambda: headed(typ=...),
    "typ in lower case": lambda: headed(typ="jwt"),
    "kid": lambda: headed(kid="#atproto"),
    "kid with the DID of iss": lambda: headed(kid=f"{ALICE}#atproto"),
    "an unknown header": lambda: headed(crv="secp256k1", cty="JWT"),
}


@pytest.mark.parametrize("form", ACCEPTED)
async def test_a_good_token_proves_its_caller(world: World, form: str) -> None:
    caller = await world.call(ACCEPTED[form]())
    assert caller == Caller(BOB if "p256" in form else ALICE)
    assert not world.auth.failures


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer  "])
async def test_the_scheme_is_read_in_any_case(world: World, scheme: str) -> None:
    assert await world.auth.authenticate(scheme + token(), METHOD) == Caller(ALICE)


# --- what is refused, each for one thing ---


def dropped(text: str, part: int) -> str:
    parts = text.split(".")
    del parts[part]
    return ".".join(parts)


def with_signature(change: Callable[[bytes], bytes]) -> str:
    signed, _, signature = token().rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    return f"{signed}.{b64(change(raw))}"


def with_high_s(key: Key, **changes: Any) -> str:
    signed = token(key, **changes).rpartition(".")[0]
    return f"{signed}.{b64(key.sign(signed.encode(), high_s=True))}"


def with_s(value: int) -> str:
    return with_signature(lambda s: s[:32] + value.to_bytes(32))


def unsigned(alg: str) -> str:
    parts = (json.dumps(header(alg=alg)).encode(), json.dumps(claims()).encode())
    return ".".join(map(b64, parts)) + "."


def raw_claims(text: str) -> str:
    """Return a token whose claims are the good ones with this JSON text before their end."""
    body = json.dumps(claims())[:-1] + text + "}"
    return jwt(K256, header(), body.encode())


def raw_times(exp: str) -> str:
    body = json.dumps(claims(exp=...))[:-1] + f',"exp":{exp}}}'
    return jwt(K256, header(), body.encode())


def not_canonical() -> str:
    # The last digit of 64 bytes carries four spare bits.
    good = token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return good[:-1] + alphabet[alphabet.index(good[-1]) + 1]


def bearer(make: Callable[[], str]) -> Callable[[], str]:
    return lambda: f"Bearer {make()}"


HEADERS: dict[str, tuple[Callable[[], str | None], str]] = {
    "no header": (lambda: None, "AuthMissing"),
    "an empty header": (lambda: "", "AuthMissing"),
    "no scheme": (token, "AuthMissing"),
    "Basic": (lambda: "Basic dXNlcjpwYXNz", "AuthMissing"),
    "DPoP": (lambda: f"DPoP {token()}", "AuthMissing"),
    "Bearer alone": (lambda: "Bearer", "AuthMissing"),
    "Bearer and nothing": (lambda: "Bearer ", "BadJwt"),
    "two tokens": (lambda: f"Bearer {token()} {token()}", "BadJwt"),
    "two headers in one": (lambda: f"Bearer {token()}, Bearer {token()}", "BadJwt"),
    "a blank behind": (lambda: f"Bearer {token()} ", "BadJwt"),
    "a line feed behind": (lambda: f"Bearer {token()}\n", "BadJwt"),
    "a tab between": (lambda: f"Bearer \t{token()}", "BadJwt"),
    "not ASCII": (lambda: f"Bearer {token()}é", "BadJwt"),
    "digits that are not ASCII": (lambda: f"Bearer {token()}٣", "BadJwt"),
    "a lone surrogate": (lambda: f"Bearer {token()}\ud800", "BadJwt"),
    "9 KB": (lambda: f"Bearer {token(pad='x' * 9000)}", "BadJwt"),
    "a megabyte": (lambda: "Bearer " + "x" * 1_000_000, "BadJwt"),
}

TOKENS: dict[str, tuple[Callable[[], str], str]] = {
    # its form
    "one part": (lambda: "x", "BadJwt"),
    "two parts": (lambda: dropped(token(), 2), "BadJwt"),
    "four parts": (lambda: token() + ".x", "BadJwt"),
    "an empty header": (lambda: "." + dropped(token(), 0), "BadJwt"),
    "padding": (lambda: token() + "==", "BadJwt"),
    "base64 that is not URL-safe": (lambda: "+" + token()[1:], "BadJwt"),
    "a part of impossible length": (lambda: "e." + dropped(token(), 0), "BadJwt"),
    "spare bits that are set": (not_canonical, "BadJwt"),
    "a header that is no JSON": (lambda: jwt(K256, b"alg", claims()), "BadJwt"),
    "a header that is a list": (lambda: jwt(K256, b"[]", claims()), "BadJwt"),
    "claims that are a string": (lambda: jwt(K256, header(), b'"x"'), "BadJwt"),
    "claims that are null": (lambda: jwt(K256, header(), b"null"), "BadJwt"),
    "claims not in UTF-8": (lambda: jwt(K256, header(), b'{"a":"\xff"}'), "BadJwt"),
    "a claim twice": (lambda: raw_claims(f',"iss":"{BOB}"'), "BadJwt"),
    "NaN": (lambda: raw_claims(',"a":NaN'), "BadJwt"),
    "a lone surrogate": (lambda: raw_claims(',"a":"\\ud800"'), "BadJwt"),
    "depth": (lambda: raw_claims(',"a":' + "[" * 900 + "]" * 900), "BadJwt"),
    "a number of 5000 digits": (lambda: raw_claims(',"a":' + "9" * 5000), "BadJwt"),
    # its header
    "typ of an access token": (lambda: headed(typ="at+jwt"), "BadJwtType"),
    "typ of a refresh token": (lambda: headed(typ="refresh+jwt"), "BadJwtType"),
    "typ of a DPoP proof": (lambda: headed(typ="dpop+jwt"), "BadJwtType"),
    "typ in capitals": (lambda: headed(typ="AT+JWT"), "BadJwtType"),
    "typ of anything else": (lambda: headed(typ="x"), "BadJwtType"),
    "typ null": (lambda: headed(typ=None), "BadJwtType"),
    "no alg": (lambda: headed(alg=...), "BadJwt"),
    "alg none": (lambda: headed(alg="none"), "BadJwt"),
    "alg None": (lambda: headed(alg=None), "BadJwt"),
    "alg HS256": (lambda: headed(alg="HS256"), "BadJwt"),
    "alg in lower case": (lambda: headed(alg="es256k"), "BadJwt"),
    "alg a list": (lambda: headed(alg=["ES256K"]), "BadJwt"),
    "alg of the other curve": (lambda: headed(alg="ES256"), "BadJwtSignature"),
    "alg none, unsigned": (lambda: unsigned("none"), "BadJwt"),
    "crit": (lambda: headed(crit=[]), "BadJwt"),
    "kid of another key": (lambda: headed(kid="#other"), "BadJwt"),
    "kid of another key of the account": (lambda: headed(kid=f"{ALICE}#other"), "BadJwt"),
    "kid of another account": (lambda: headed(kid=f"{BOB}#atproto"), "BadJwt"),
    "kid without the hash": (lambda: headed(kid="atproto"), "BadJwt"),
    "kid null": (lambda: headed(kid=None), "BadJwt"),
    "kid a list": (lambda: headed(kid=["#atproto"]), "BadJwt"),
    "jwk": (lambda: headed(jwk={"kty": "EC"}), "BadJwt"),
    "jku": (lambda: headed(jku="https://evil.example"), "BadJwt"),
    "x5c": (lambda: headed(x5c=[]), "BadJwt"),
    "x5u": (lambda: headed(x5u="https://evil.example"), "BadJwt"),
    # its claims
    "no iss": (lambda: token(iss=...), "BadJwt"),
    "iss a list": (lambda: token(iss=[ALICE]), "BadJwt"),
    "iss empty": (lambda: token(iss=""), "BadJwtIss"),
    "iss with fragment": (lambda: token(iss=f"{ALICE}#atproto"), "BadJwtIss"),
    "iss a did:key": (lambda: token(iss=K256.did_key), "BadJwtIss"),
    "iss a handle": (lambda: token(iss="alice.test"), "BadJwtIss"),
    "iss with a line feed": (lambda: token(iss=f"{ALICE}\n"), "BadJwtIss"),
    "iss that climbs": (lambda: token(iss="did:plc:../../admin"), "BadJwtIss"),
    "iss of no PLC form": (lambda: token(iss="did:plc:alice"), "BadJwtIss"),
    "iss in capitals": (lambda: token(iss=ALICE.upper()), "BadJwtIss"),
    "iss that nobody knows": (lambda: token(iss=NOBODY), "BadJwtIss"),
    "iss without a key": (lambda: token(iss=KEYLESS), "BadJwtSignature"),
    "iss of another account": (lambda: token(iss=BOB), "BadJwtSignature"),
    "no aud": (lambda: token(aud=...), "BadJwt"),
    "aud of another": (lambda: token(aud="did:web:other.example"), "BadJwtAudience"),
    "aud with another fragment": (lambda: token(aud=f"{US}#other"), "BadJwtAudience"),
    "aud with more behind": (lambda: token(aud=US + "."), "BadJwtAudience"),
    "aud in capitals": (lambda: token(aud=US.upper()), "BadJwtAudience"),
    "aud empty": (lambda: token(aud=""), "BadJwtAudience"),
    "aud a list": (lambda: token(aud=[US]), "BadJwt"),
    "no lxm": (lambda: token(lxm=...), "BadJwtLexiconMethod"),
    "lxm null": (lambda: token(lxm=None), "BadJwtLexiconMethod"),
    "lxm a list": (lambda: token(lxm=[METHOD]), "BadJwtLexiconMethod"),
    "lxm *": (lambda: token(lxm="*"), "BadJwtLexiconMethod"),
    "lxm of another": (lambda: token(lxm="com.example.x"), "BadJwtLexiconMethod"),
    "lxm in capitals": (lambda: token(lxm=METHOD.upper()), "BadJwtLexiconMethod"),
    "lxm a prefix": (lambda: token(lxm="rsvp.atmo"), "BadJwtLexiconMethod"),
    "no exp": (lambda: token(exp=...), "BadJwt"),
    "exp null": (lambda: token(exp=None), "BadJwt"),
    "exp true": (lambda: token(exp=True), "BadJwt"),
    "exp text": (lambda: token(exp=str(int(NOW) + 60)), "BadJwt"),
    "exp a minute ago": (lambda: token(exp=int(NOW) - 60), "JwtExpired"),
    "exp zero": (lambda: token(exp=0), "JwtExpired"),
    "exp below zero": (lambda: token(exp=-(10**30)), "JwtExpired"),
    "exp in over an hour": (lambda: token(exp=int(NOW) + 3661), "BadJwt"),
    "exp beyond all, as a float": (lambda: raw_times("1e400"), "BadJwt"),
    "exp long before all, as a float": (lambda: raw_times("-1e300"), "JwtExpired"),
    "exp long beyond all, as a float": (lambda: raw_times("1e300"), "BadJwt"),
    "exp in ten years": (lambda: token(exp=int(NOW) + 10**8), "BadJwt"),
    "exp in milliseconds": (lambda: token(exp=int(NOW) * 1000), "BadJwt"),
    "exp beyond all": (lambda: token(exp=10**400), "BadJwt"),
    "iat in the future": (lambda: token(iat=int(NOW) + 61), "BadJwt"),
    "iat null": (lambda: token(iat=None), "BadJwt"),
    "iat false": (lambda: token(iat=False), "BadJwt"),
    "nbf in the future": (lambda: token(nbf=int(NOW) + 61), "BadJwt"),
    "nbf in the future by a fraction": (lambda: token(nbf=NOW + 60.1), "BadJwt"),
    "nbf text": (lambda: token(nbf="0"), "BadJwt"),
    "jti a number": (lambda: token(jti=7), "BadJwt"),
    "jti a list": (lambda: token(jti=[]), "BadJwt"),
    "jti of 129 characters": (lambda: token(jti="x" * 129), "BadJwt"),
    # its signature
    "no signature": (lambda: token().rpartition(".")[0] + ".", "BadJwt"),
    "a signature of zeros": (lambda: with_signature(lambda s: bytes(64)), "BadJwtSignature"),
    "a signature that is long": (lambda: with_signature(lambda s: s + b"\0"), "BadJwtSignature"),
    "a signature that is short": (lambda: with_signature(lambda s: s[:-1]), "BadJwtSignature"),
    "a signature with a zero within": (
        lambda: with_signature(lambda s: s[:32] + b"\0" + s[32:]),
        "BadJwtSignature",
    ),
    "a signature doubled": (lambda: with_signature(lambda s: s + s), "BadJwtSignature"),
    "s of zero": (lambda: with_s(0), "BadJwtSignature"),
    "s of the order": (lambda: with_s(K256.order), "BadJwtSignature"),
    "s beyond the order": (lambda: with_s(K256.order + 1), "BadJwtSignature"),
    "s of all ones": (lambda: with_s(2**256 - 1), "BadJwtSignature"),
    "a signature with one bit flipped": (
        lambda: with_signature(lambda s: bytes([s[0] ^ 1]) + s[1:]),
        "BadJwtSignature",
    ),
    "another key of the curve": (lambda: token(Key.k256()), "BadJwtSignature"),
    "another curve": (lambda: token(P256), "BadJwtSignature"),
}


@pytest.mark.parametrize("form", HEADERS)
async def test_a_header_that_is_no_token_is_refused(world: World, form: str) -> None:
    make, error = HEADERS[form]
    assert (await world.refusal(make()))[0] == error
    assert world.host.paths == []


@pytest.mark.parametrize("form", TOKENS)
async def test_a_token_that_is_wrong_in_one_thing_is_refused(world: World, form: str) -> None:
    make, error = TOKENS[form]
    name, reason = await world.refusal(f"Bearer {make()}")
    assert name == error
    assert len(world.auth._used) == 0
    # Only what could still be good makes us ask for a key.
    assert not world.host.paths or reason in {"signature", "unresolved"}


@pytest.mark.parametrize(
    "iss",
    [
        f"{ALICE}#atproto",
        pytest.param(K256.did_key, id="a did:key"),
        "did:example:x",
        "x",
        "did:web:",
    ],
)
async def test_an_issuer_that_cannot_be_an_account_is_asked_of_nobody(
    world: World, iss: str
) -> None:
    assert await world.refusal(f"Bearer {token(iss=iss)}") == ("BadJwtIss", "issuer")


async def test_a_token_for_another_method_is_refused(world: World) -> None:
    header = f"Bearer {token()}"
    assert await world.refusal(header, "com.example.other") == ("BadJwtLexiconMethod", "method")
    assert await world.auth.authenticate(header, METHOD) == Caller(ALICE)  # it is not used up


async def test_a_token_with_changed_claims_is_refused(world: World) -> None:
    head, _, signature = token().split(".")
    other = b64(json.dumps(claims(jti="another")).encode())
    error, _ = await world.refusal(f"Bearer {head}.{other}.{signature}")
    assert error == "BadJwtSignature"


def revealed(text: str) -> list[str]:
    """Return the texts that a token's claims are, if they can be read."""
    try:
        part = text.split(".")[1]
        read = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return []
    return (
        [claim for claim in read.values() if isinstance(claim, str)] if type(read) is dict else []
    )


async def test_an_error_says_nothing_of_the_token(world: World) -> None:
    for make, _ in TOKENS.values():
        with pytest.raises(XrpcError) as caught:
            await world.call(text := make())
        said = f"{caught.value.error} {caught.value.message}"
        said = said.replace(f"aud={US} and lxm={METHOD}", "")  # the right ones
        secrets = [US, ALICE, BOB, METHOD, K256.did_key, *text.split("."), *revealed(text)]
        assert not any(secret in said for secret in secrets if len(secret) > 8)
        assert caught.value.__cause__ is None
