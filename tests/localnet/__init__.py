"""A real AT Protocol network on loopback: `@did-plc/server` and `@atproto/pds`, each a process.

    async with await LocalNetwork.start(directory) as network:
        alice = await network.pds.create_account("alice.test")
        uri, cid = await alice.create_record("rsvp.atmo.space", {"createdAt": "…"})

`scripts/test` installs what it needs; nothing here downloads anything.
"""

from tests.localnet.account import Account, StrongRef
from tests.localnet.firehose import Frame, collect, firehose
from tests.localnet.network import LocalNetwork
from tests.localnet.pds import Pds
from tests.localnet.process import ServerStartError
from tests.localnet.xrpc import PdsError

__all__ = [
    "Account",
    "Frame",
    "LocalNetwork",
    "Pds",
    "PdsError",
    "ServerStartError",
    "StrongRef",
    "collect",
    "firehose",
]
