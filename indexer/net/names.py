"""Names to addresses, in the system's way: with its hosts file, search list and name services."""

import asyncio
import socket
import threading
from contextlib import suppress


class Names:
    """Looks names up in threads of its own, `size` at once.

    The system's way can't be called off. Where a name server is silent it goes on for half a
    minute after its caller has left, and keeps its place until then.
    """

    def __init__(self, size: int) -> None:
        self._places = asyncio.Semaphore(size)

    async def find(self, host: str, port: int) -> list[tuple[str, int]]:
        """Return the addresses and ports to dial for a host, in the system's order of preference.

        Raises OSError or ValueError if there are none.
        """
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[tuple[str, int]]] = loop.create_future()

        def end(addresses: list[tuple[str, int]], error: Exception | None) -> None:
            self._places.release()
            if found.done():
                return  # the caller has left
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def look_up() -> None:
            addresses: list[tuple[str, int]] = []
            failure: Exception | None = None
            try:
                answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = [(str(at[0]), int(at[1])) for *_, at in answers]
            except Exception as error:  # it is raised where it is awaited
                failure = error
            with suppress(RuntimeError):  # the event loop has ended meanwhile
                loop.call_soon_threadsafe(end, addresses, failure)

        # No pool of the standard library: a process that ends would wait for its threads.
        try:
            threading.Thread(target=look_up, name="names", daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            raise OSError("the system has no thread left") from error
        return await found
