"""What the holder of a rotation key signs for the PLC directory, and what its log tells."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import httpx
import libipld
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.localnet.xrpc import checked

K256_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


async def next_operation(
    plc_url: str, did: str, credentials: Mapping[str, object], rotation_key: str
) -> dict[str, object]:
    """Return the signed operation that makes `credentials` the state of the DID.

    They are keys, names and services; `rotation_key` is a k256 private key in hex.
    Source: web.plc.directory/spec/v0.1/did-plc
    """
    async with httpx.AsyncClient(trust_env=False) as client:
        log = checked(await client.get(f"{plc_url}/{did}/log/audit"))
    operation = {"type": "plc_operation", **credentials, "prev": log[-1]["cid"]}
    return {**operation, "sig": _sign(operation, rotation_key)}


def count_questions(log: Path, did: str, user_agent: str) -> int:
    """Count how often the directory was asked for the document of a DID by a program."""
    lines = (line for line in log.read_text().splitlines() if line.startswith("{"))
    asked = (json.loads(line).get("req", {}) for line in lines)
    return sum(
        request.get("url") == f"/{did}" and request["headers"].get("user-agent") == user_agent
        for request in asked
    )


def _sign(operation: Mapping[str, object], rotation_key: str) -> str:
    key = ec.derive_private_key(int(rotation_key, 16), ec.SECP256K1())
    message = libipld.encode_dag_cbor(dict(operation))
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    low = min(s, K256_ORDER - s)  # the directory takes the lower of the two valid forms only
    signature = r.to_bytes(32, "big") + low.to_bytes(32, "big")
    return base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
