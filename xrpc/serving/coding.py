"""Bodies that come compressed: made whole piece by piece, and never larger than they may be.

Sources: RFC 9110, sections 8.4 and 15.5.16; RFC 1950 to 1952.
"""

import zlib

from xrpc.errors import InvalidRequestError, UnsupportedMediaTypeError

ACCEPTED = "gzip, deflate"

_GZIP = 16 + zlib.MAX_WBITS
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
        self._is_plain = self._coding in {"", "identity"}

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes add; raise InvalidRequest if they are not of the coding."""
        if self._is_plain or not data:
            return data
        if self._inflate is None:
            self._inflate = zlib.decompressobj(self._window(data[0]))
        try:
            found = self._inflate.decompress(data, max(1, self._left))  # 0 is without a limit
        except zlib.error:
            raise InvalidRequestError(f"the body is not {self._coding}") from None
        if self._inflate.unused_data:
            raise InvalidRequestError(f"the body goes on behind the end of its {self._coding}")
        self._left -= len(found)
        return found

    def end(self) -> None:
        """Raise InvalidRequest if the body ends before its coding does."""
        if not (self._is_plain or (self._inflate and self._inflate.eof)):
            raise InvalidRequestError(f"the body ends before its {self._coding} does")

    def _window(self, first: int) -> int:
        if self._coding != "deflate":
            return _GZIP
        # The name stands for zlib's form, yet some send what is within it. No stream of that
        # begins with zlib's method: it would be a stored block with a set bit in its padding.
        return _ZLIB if first & 0x0F == zlib.DEFLATED else _RAW
