"""Records and calls that fit our lexicons, lexicons around one schema, and the official vectors."""

import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from indexer.lexicon.interpreter import LexiconError, Lexicons

VECTORS = Path(__file__).parents[2].parent / "shared" / "fixtures" / "interop"
OURS = Lexicons.load(files("indexer") / "lexicons", files("xrpc") / "lexicons")

SPACE = "rsvp.atmo.space"
INVITE = "rsvp.atmo.space.invite"
VERIFICATION = "app.bsky.graph.verification"
REVOKE_INVITE = "rsvp.atmo.space.invite.revoke"
REVOKE_VERIFICATIONS = "tools.ozone.verification.revokeVerifications"

DID = "did:plc:7iza6de2dwap2sbkpav7c6c6"
SPACE_URI = f"at://{DID}/{SPACE}/3jzfcijpj2z2a"
URI = f"at://{DID}/{VERIFICATION}/3jzfcijpj2z2a"
TIME = "2026-01-31T12:00:00.000Z"
CID = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq"
BINARY_CID = b"\x01\x71\x12\x20" + bytes(32)

RECORDS: dict[str, dict[str, Any]] = {
    SPACE: {"$type": SPACE, "createdAt": TIME},
    INVITE: {"$type": INVITE, "space": SPACE_URI, "tokenHash": "a" * 64, "createdAt": TIME},
    VERIFICATION: {
        "$type": VERIFICATION,
        "subject": DID,
        "handle": "alice.test",
        "displayName": "Alice",
        "createdAt": TIME,
    },
}
INPUTS: dict[str, dict[str, Any]] = {
    REVOKE_INVITE: {"spaceUri": SPACE_URI, "tokenHash": "a" * 64},
    REVOKE_VERIFICATIONS: {"uris": [URI], "revokeReason": "an impostor"},
}
# What fits no field of ours that is a string, an integer or an array of strings.
ALIENS = [None, True, 1.0, math.nan, math.inf, {}, [1], "\ud800", b"\x00", {"$bytes": "AAAA"}]


def every_type(name: str, schema: dict[str, Any]) -> Lexicons:
    """Make lexicons in which `input("a.b.c", …)` takes an object with one field of this schema."""
    defs = {
        "main": {
            "type": "procedure",
            "input": {
                "encoding": "application/json",
                "schema": {"type": "object", "properties": {name: schema}},
            },
        },
        "leaf": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
        "tree": {"type": "object", "properties": {"child": {"type": "ref", "ref": "#tree"}}},
        "short": {"type": "string", "maxLength": 2},
        "red": {"type": "token"},
    }
    other = {
        "main": {
            "type": "record",
            "key": "any",
            "record": {"type": "object", "properties": {"n": {"type": "integer"}}},
        }
    }
    return Lexicons(
        [{"lexicon": 1, "id": "a.b.c", "defs": defs}, {"lexicon": 1, "id": "a.b.d", "defs": other}]
    )


def field(schema: dict[str, Any], value: object) -> Any:
    """Check one value against one schema, and return what became of it."""
    return every_type("f", schema).input("a.b.c", {"f": value})["f"]


def refusal(schema: dict[str, Any], value: object) -> LexiconError:
    with pytest.raises(LexiconError) as caught:
        field(schema, value)
    return caught.value


def load(name: str) -> list[dict[str, Any]]:
    file = VECTORS / name
    return json.loads(file.read_bytes()) if file.exists() else []


def title(case: object) -> str | None:
    return case.get("name", case.get("note")) if isinstance(case, dict) else None


def document(**defs: Any) -> dict[str, Any]:
    return {"lexicon": 1, "id": "a.b.c", "defs": defs}


INTEGER = {"type": "integer"}
VARIANTS = {"type": "union", "refs": ["#leaf", "a.b.d"]}

QUERY = Lexicons(
    [
        document(
            main={
                "type": "query",
                "parameters": {
                    "type": "params",
                    "required": ["who"],
                    "properties": {
                        "who": {"type": "string", "format": "did"},
                        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50},
                        "offset": {"type": "integer"},
                        "all": {"type": "boolean"},
                        "ids": {"type": "array", "items": INTEGER, "maxLength": 3},
                    },
                },
            }
        )
    ]
)
WHO = ("who", DID)
