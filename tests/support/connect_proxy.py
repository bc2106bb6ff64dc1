"""A proxy on loopback that makes connections for who asks by CONNECT, and notes for whom."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class ConnectProxy:
    """`answer` is given in place of a connection; `leads_to` is where each connection ends."""

    def __init__(self) -> None:
        self.port = 0
        self.targets: list[str] = []
        self.heads: list[str] = []
        self.answer: bytes | None = None
        self.leads_to: int | None = None  # a port on loopback; None: as it is asked

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            self.targets.append(head.split(" ")[1])
            if self.answer is not None:
                writer.write(self.answer)
                await writer.drain()
                writer.close()
                return
            host, _, port = self.targets[-1].rpartition(":")
            if self.leads_to is not None:
                host, port = "127.0.0.1", str(self.leads_to)
            there_reader, there = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
            try:
                await asyncio.gather(_pump(reader, there), _pump(there_reader, writer))
            finally:
                there.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def connect_proxy() -> AsyncIterator[ConnectProxy]:
    proxy = ConnectProxy()
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await proxy.serve(reader, writer)
        finally:
            running.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        left = list(running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0)
