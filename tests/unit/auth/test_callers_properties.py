"""Nothing but a proven caller gets past a 401; signatures are judged as the vectors say."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.identity.model import Identity, IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.proof import keys
from tests.support.account_keys import jwt
from tests.support.callers import ALICE, AUDIENCES, K256, METHOD, NOW, claims, header, token
from xrpc.auth import callers as module
from xrpc.auth import service_jwt
from xrpc.auth.callers import Caller, ServiceAuth
from xrpc.auth.used_tokens import UsedTokens
from xrpc.errors import AuthRequiredError

# --- whatever comes ---


class OneKey(IdentityResolver):
    """Knows Alice's key without a network, so that thousands of tokens can be tried."""

    def __init__(self) -> None:
        pass

    async def resolve(self, did: str, *, refresh: bool = False) -> Identity:
        if did != ALICE:
            raise IdentityError("not_found")
        return Identity(did, K256.did_key, None, ())


GOOD = token()


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A good header with one piece of it replaced by something else."""
    good = f"Bearer {GOOD}"
    start = draw(st.integers(0, len(good)))
    end = draw(st.integers(start, min(len(good), start + 20)))
    return good[:start] + draw(st.text(max_size=10)) + good[end:]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names_of_fields = st.sampled_from([*header(), *claims(), "kid", "crit", "jwk", "nbf", "x"])


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(header_line=st.text() | st.text().map("Bearer ".__add__) | mutated())
async def test_no_header_gets_past_a_401(header_line: str) -> None:
    await passes_or_401(header_line)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    heads=st.dictionaries(names_of_fields, anything, max_size=2),
    bodies=st.dictionaries(names_of_fields, anything, max_size=2),
)
async def test_no_signed_token_gets_past_a_401(
    heads: dict[str, Any], bodies: dict[str, Any]
) -> None:
    text = jwt(K256, {**header(), **heads}, {**claims(), **bodies})
    await passes_or_401(f"Bearer {text}")


async def passes_or_401(header_line: str) -> None:
    auth = ServiceAuth(OneKey(), AUDIENCES, UsedTokens(1_000), clock=lambda: NOW)
    try:
        assert await auth.authenticate(header_line, METHOD) == Caller(ALICE)
    except AuthRequiredError:
        assert auth.failures.total() == 1
        return
    signed, _, signature = header_line.partition(" ")[2].strip(" ").rpartition(".")
    K256.verify(signed.encode(), base64.urlsafe_b64decode(signature + "=="))


# --- the official vectors of signatures, and our own ---

INTEROP = (
    Path(__file__).parents[3].parent / "shared/fixtures/interop/crypto/signature-fixtures.json"
)
VECTORS = json.loads(INTEROP.read_text()) if INTEROP.exists() else []


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["comment"])
def test_signatures_are_judged_as_the_official_vectors_say(vector: dict[str, Any]) -> None:
    claim = service_jwt.ServiceJwt(
        alg=vector["algorithm"],
        iss="", aud="", lxm="", jti="", exp=0, iat=None, nbf=None,
        signed=base64.b64decode(vector["messageBase64"] + "=="),
        signature=base64.b64decode(vector["signatureBase64"] + "=="),
    )  # fmt: skip
    valid, key = vector["validSignature"], vector["publicKeyDid"]
    assert keys.is_signed(key, claim.signature, claim.signed) == valid  # as of commits
    # Of tokens high S counts as well, and DER, which `parse_bearer` refuses too, as little.
    assert module._is_signed(claim, key) == (valid or "non-low-S" in vector["comment"])
