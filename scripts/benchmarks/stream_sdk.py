"""The SDK's reader, used as its examples do: models of messages, of their CARs, of the records.

Of its two clients the one with a thread, which is the faster by a half.

python -m scripts.benchmarks.stream_sdk URL FRAMES
"""

import json
import sys
from typing import Any

from atproto import (  # type: ignore[import-untyped]
    CAR,
    AtUri,
    FirehoseSubscribeReposClient,
    models,
    parse_subscribe_repos_message,
)

from scripts.benchmarks.relay import BASE
from scripts.benchmarks.usage import Clock, memory

SAVE_EVERY = 20  # frames; the examples move the client's cursor that often
COMMIT = models.ComAtprotoSyncSubscribeRepos.Commit


def read(url: str, frames: int) -> dict[str, float]:
    client = FirehoseSubscribeReposClient({"cursor": BASE}, f"{url}/xrpc")
    last = BASE
    records = 0
    took: dict[str, float] = {}
    errors: list[BaseException] = []

    def handle(message: Any) -> None:
        nonlocal last, records
        event: Any = parse_subscribe_repos_message(message)
        assert event.seq == last + 1, f"{event.seq} comes behind {last}"
        last = event.seq
        if isinstance(event, COMMIT):
            if last % SAVE_EVERY == 0:
                client.update_params({"cursor": last})
            records += len(created(event))
        if last == BASE + frames:
            took.update(clock.took())
            client.stop()

    def fail(error: BaseException) -> None:
        errors.append(error)
        client.stop()

    clock = Clock()
    client.start(handle, fail)
    if errors:
        raise errors[0]
    assert records > 0
    return {**took, "peak": memory(), "frames": last - BASE, "last": last}


def created(commit: Any) -> list[tuple[AtUri, str, Any]]:
    """Return the records that a commit creates, with their URIs and CIDs."""
    blocks = CAR.from_bytes(commit.blocks).blocks
    found = []
    for op in commit.ops:
        uri = AtUri.from_str(f"at://{commit.repo}/{op.path}")
        if op.action == "create":
            record = models.get_or_create(blocks[op.cid], strict=False)
            found.append((uri, str(op.cid), record))
    return found


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1], int(sys.argv[2]))))
