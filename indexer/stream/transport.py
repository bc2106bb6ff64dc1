"""A WebSocket connection for a stream of many small messages.

`websockets` does the handshake, the pings, the close, and whatever is out of the ordinary. Messages
are cut out of what the socket delivered, some fifty at a time: that takes a third of the time.

Source: RFC 6455, section 5.
"""

import asyncio
from struct import Struct
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import DATA_OPCODES, CloseCode, Frame
from websockets.protocol import Event, State

MAX_FRAME = 5_000_000  # bytes; the hard limit of atproto.com/specs/sync
MAX_WAITING = 1_000_000  # bytes of messages that wait; beyond it the socket is left unread
MAX_UNSENT = 1_000_000  # bytes of pongs that the other side may leave unread
BUFFER = 262_144  # bytes that are read at once; it grows for a longer frame

# A frame's first byte is FIN, three bits that nobody uses here, and the opcode.
_FIN = 0x80
_CONTINUATION, _TEXT, _BINARY = 0, 1, 2
_WHOLE_BINARY = _FIN | _BINARY
# The second is a mask's bit, which a server sets never, and the length, if that is below 126.
_LENGTH_IN_2, _LENGTH_IN_8 = 126, 127  # bytes that follow
_HEAD = Struct(">BBH")
_LONGEST_HEAD = 10  # bytes


class StreamSocket(ClientConnection, asyncio.BufferedProtocol):
    """What `connect(create_connection=StreamSocket)` opens. Read it by `receive` alone."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._messages: list[bytes] = []
        self._waiting = 0  # bytes that were read while there were any
        self._arrived = asyncio.Event()
        self._buffer = memoryview(bytearray(BUFFER))
        self._filled = 0  # bytes of it, with a frame that is not whole yet
        self._missing = 0  # bytes that this lacks, or at least that are needed to know
        self._begun: bytearray | None = None  # what has come of a message in several frames

    async def receive(self) -> list[bytes]:
        """Return the messages that have come, at least one. Raises `ConnectionClosed`."""
        while not self._messages:
            if self.protocol.state is not State.OPEN:
                await self.close()  # it has ended, or does so within the close timeout
                raise self.close_exc
            self._arrived.clear()
            await self._arrived.wait()
        messages, self._messages = self._messages, []
        self._waiting = 0
        self.transport.resume_reading()
        return messages

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.transport.resume_reading()  # or the other side's goodbye would not be heard
        await super().close(code, reason)

    def get_buffer(self, sizehint: int) -> memoryview:
        # With some room at the end: a head may be looked at before it is whole.
        if self._filled + self._missing + _LONGEST_HEAD > len(self._buffer):
            longer = memoryview(bytearray(self._filled + self._missing + BUFFER))
            longer[: self._filled] = self._buffer[: self._filled]
            self._buffer = longer
        return self._buffer[self._filled : -_LONGEST_HEAD]

    def buffer_updated(self, nbytes: int) -> None:
        start, end = 0, self._filled + nbytes
        if self.protocol.state is State.CONNECTING:
            start = self._shake_hands(end)
        self._missing -= nbytes
        if self._missing <= 0 or self.protocol.state is not State.OPEN:
            start = self._take_messages(start, end)
        self._filled = end - start
        if start:
            self._buffer[: self._filled] = self._buffer[start:end]
        if self.protocol.state is not State.OPEN:
            self._arrived.set()
        elif self._messages:
            self._arrived.set()
            self._waiting += nbytes
            if self._waiting > MAX_WAITING:
                self.transport.pause_reading()
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            self.transport.abort()  # it pings, and takes no answer

    def _shake_hands(self, end: int) -> int:
        """Take the handshake, as far as it has come; return where the first frame begins."""
        start, answer = 0, bytes(self._buffer[:end])
        while self.protocol.state is State.CONNECTING and start < end:
            # By the line, since frames may follow at once; behind what is no answer, nothing does.
            stop = 0 if self.protocol.handshake_exc else answer.find(b"\n", start) + 1
            start = self._hand_over(start, stop or end)
        return start

    def _take_messages(self, start: int, end: int) -> int:
        """Take out the messages that are whole; return where the next frame begins."""
        buffer = self._buffer
        while self.protocol.state is State.OPEN:
            if end - start < 2:
                self._missing = 2 - (end - start)
                return start
            first, size, length = _HEAD.unpack_from(buffer, start)
            if size < _LENGTH_IN_2:
                body, length = start + 2, size
            elif size == _LENGTH_IN_2:
                body = start + 4
            elif size == _LENGTH_IN_8:
                body = start + _LONGEST_HEAD
                length = int.from_bytes(buffer[start + 2 : body])
            else:
                break
            stop = body + length
            if body > end:  # so that the length is none yet
                self._missing = body - end
                return start
            if length > MAX_FRAME:
                break
            if stop > end:
                self._missing = stop - end
                return start
            if first == _WHOLE_BINARY and self._begun is None:
                self._messages.append(bytes(buffer[body:stop]))
            elif first & ~_FIN <= _BINARY:
                self._take_part(first, buffer[body:stop])
            else:
                self._hand_over(start, stop)
            start = stop
        # Nothing follows that we want: it is closing, or has to be, for what stands here.
        return self._hand_over(start, end)

    def _take_part(self, first: int, part: memoryview) -> None:
        """Take a frame of data that is not a message by itself, or may not be."""
        if (first & ~_FIN == _CONTINUATION) is (self._begun is None):
            self._fail(CloseCode.PROTOCOL_ERROR, "a message in several frames goes on, or does not")
            return
        self._begun = self._begun or bytearray()
        # In one piece: of pieces that are empty there may be any number.
        self._begun += part
        if len(self._begun) > MAX_FRAME:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"over {MAX_FRAME} bytes")
        elif first & _FIN:
            self._messages.append(bytes(self._begun))
            self._begun = None

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.protocol.fail(code, reason)
        self.data_received(b"")  # so that this is sent

    def _hand_over(self, start: int, stop: int) -> int:
        """Let websockets see to this; return where it ends."""
        self.data_received(bytes(self._buffer[start:stop]))
        return stop

    def process_event(self, event: Event) -> None:
        # What comes after the goodbye is read only to find the other side's.
        if not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._arrived.set()
