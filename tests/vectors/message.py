"""A `#commit` or `#sync` taken apart, to be put together again with one thing wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import libipld

from indexer.proof.car import read_car
from tests.support.account_keys import Key
from tests.support.frames import block, cid_of, frame, section, varint


@dataclass(frozen=True, slots=True)
class Message:
    """A message whose CAR is open. `blocks` are by CID and in their order; a CID may lie."""

    kind: str
    body: Mapping[str, Any]
    root: bytes
    blocks: Mapping[bytes, bytes]

    @classmethod
    def parse(cls, data: bytes) -> "Message":
        header, body = libipld.decode_dag_cbor_multi(data)
        root, blocks = read_car(body["blocks"])
        return cls(header["t"], body, root, blocks)

    @property
    def commit(self) -> dict[str, Any]:
        """The commit object, as a new map."""
        fields: dict[str, Any] = libipld.decode_dag_cbor(self.blocks[self.root])
        return fields

    @property
    def is_old(self) -> bool:
        """Tell whether nothing here says which tree was before."""
        return self.kind == "#commit" and "prevData" not in self.body and bool(self.body["since"])

    def frame(self) -> bytes:
        """Return the bytes of the message."""
        head = block({"version": 1, "roots": [self.root]})
        sections = b"".join(section(cid, data) for cid, data in self.blocks.items())
        return self.with_car(varint(len(head)) + head + sections)

    def with_car(self, car: bytes) -> bytes:
        """Return the bytes of the message with another CAR, whatever it is."""
        return frame(self.kind, {**self.body, "blocks": car})

    def with_body(self, **fields: Any) -> bytes:
        return replace(self, body={**self.body, **fields}).frame()

    def without_field(self, name: str) -> bytes:
        body = {field: value for field, value in self.body.items() if field != name}
        return replace(self, body=body).frame()

    def with_op(self, index: int, **fields: Any) -> bytes:
        """Return the bytes of the message with other fields in one op."""
        ops = list(self.body["ops"])
        ops[index] = {**ops[index], **fields}
        return self.with_body(ops=ops)

    def without_block(self, cid: bytes) -> bytes:
        blocks = {other: data for other, data in self.blocks.items() if other != cid}
        return replace(self, blocks=blocks).frame()

    def with_commit(self, fields: Mapping[str, Any]) -> bytes:
        """Return the bytes of the message with another commit object, which it names everywhere."""
        data = block(dict(fields))
        root = cid_of(data)
        rest = {cid: other for cid, other in self.blocks.items() if cid != self.root}
        body = dict(self.body)
        if self.kind == "#commit":
            body["commit"] = root
        return replace(self, body=body, root=root, blocks={root: data, **rest}).frame()


def signed(fields: Mapping[str, Any], key: Key, *, high_s: bool = False) -> dict[str, Any]:
    """Return a commit object with these fields and a signature over them."""
    unsigned = {name: value for name, value in fields.items() if name != "sig"}
    # One signature of a thousand looks like a CID to `libipld`, which then writes it as a link.
    while (sig := key.sign(block(unsigned), high_s=high_s))[0] == 1:
        continue
    return {**unsigned, "sig": sig}
