"""Bodies that come compressed: made whole piece by piece, and never larger than they may be.

Sources: RFC 9110, sections 8.4 and 15.5.16; RFC 1950 to 1952.
"""

import zlib

from xrpc.errors import InvalidRequestError, UnsupportedMediaTypeError

ACCEPTED = "gzip, deflate"

# A gzip body may have several members (RFC 1952, section 2.2), and each of them costs some time.
MAX_MEMBERS = 100

_GZIP = 16 + zlib.MAX_WBITS
_GZIP_FIRST = 0x1F  # the byte that a member begins with
_ZLIB = zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS


class Decoder:
    """Takes a body's bytes as they come, and gives what they stand for.

    What is given is at most one byte more than `most` in all, which tells that it is too large.
    `coding` is the value of `Content-Encoding`; raises UnsupportedMediaType for what can't be read.
    """

    def __init__(self, coding: str, most: int) -> None:
        self._coding = coding.strip().lower()
        if self._coding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise UnsupportedMediaTypeError(
                f"the body may be sent as it is, or in one of these codings: {ACCEPTED}",
                headers={"accept-encoding": ACCEPTED},
            )
        self._left = most + 1
        self._inflate: zlib._Decompress | None = None
        self._members = 0
        self._is_plain = self._coding in {"", "identity"}

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes add; raise InvalidRequest if they are not of the coding."""
        if self._is_plain or not data:
            return data
        found = b""
        while data:
            inflate = self._inflate = self._at(data[0])
            try:
                piece = inflate.decompress(data, max(1, self._left))  # 0 is without a limit
            except zlib.error:
                raise InvalidRequestError(f"the body is not {self._coding}") from None
            self._left -= len(piece)
            found += piece
            data = inflate.unused_data
        return found

    def end(self) -> None:
        """Raise InvalidRequest if the body ends before its coding does."""
        if not (self._is_plain or (self._inflate and self._inflate.eof)):
            raise InvalidRequestError(f"the body ends before its {self._coding} does")

    def _at(self, first: int) -> "zlib._Decompress":
        """Return what reads on from this byte: where one member of gzip ends, the next begins."""
        if self._inflate is not None and not self._inflate.eof:
            return self._inflate
        if self._members and (self._coding == "deflate" or first != _GZIP_FIRST):
            raise InvalidRequestError(f"the body goes on behind the end of its {self._coding}")
        if self._members == MAX_MEMBERS:
            raise InvalidRequestError(f"the body is {self._coding} in too many members")
        self._members += 1
        return zlib.decompressobj(self._window(first))

    def _window(self, first: int) -> int:
        if self._coding != "deflate":
            return _GZIP
        # The name stands for zlib's form, yet some send what is within it. No stream of that
        # begins with zlib's method: it would be a stored block with a set bit in its padding.
        return _ZLIB if first & 0x0F == zlib.DEFLATED else _RAW
