"""A relay that can hold back: a TCP proxy before the PDS, to let the daemon fall behind."""

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True, eq=False)
class HoldingRelay:
    """Passes bytes on both ways; while it holds, what the PDS sends waits here."""

    target: int
    port: int = 0
    _server: asyncio.Server | None = None
    _flows: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def ws_url(self) -> str:
        return f"ws://localhost:{self.port}"

    async def start(self) -> Self:
        self._flows.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def hold(self) -> None:
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    async def cut(self) -> None:
        """Break every connection, as a network does: without a goodbye."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()
        await self._server.wait_closed()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            up_reader, up_writer = await asyncio.open_connection("localhost", self.target)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(reader, up_writer, holds=False))
                    both.create_task(self._pump(up_reader, writer, holds=True))
            finally:
                up_writer.transport.abort()
        except (OSError, ExceptionGroup):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: StreamReader, writer: StreamWriter, *, holds: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if holds:
                    await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
