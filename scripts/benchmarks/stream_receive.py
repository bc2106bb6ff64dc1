"""What the socket alone takes: every frame received, and the last one looked at.

python -m scripts.benchmarks.stream_receive URL FRAMES
"""

import asyncio
import json
import sys

import libipld
from websockets.asyncio.client import connect

from indexer.stream.firehose import subscribe_url
from indexer.stream.transport import MAX_FRAME
from scripts.benchmarks.relay import BASE
from scripts.benchmarks.usage import Clock, memory


async def receive(url: str, frames: int) -> dict[str, float]:
    frame = b""
    clock = Clock()
    async with connect(subscribe_url(url, BASE), max_size=MAX_FRAME, compression=None) as socket:
        for _ in range(frames):
            frame = await socket.recv(decode=False)
        took = clock.took()
    _, body = libipld.decode_dag_cbor_multi(frame)
    return {**took, "peak": memory(), "frames": frames, "last": body["seq"]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(receive(sys.argv[1], int(sys.argv[2])))))
