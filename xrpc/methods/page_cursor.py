"""Page cursors: how far a list has been given out, in a form that means nothing to its reader.

What comes back may be anything, so nothing in it is taken as said: it only bounds a query.
"""

import base64
import binascii
import json

from indexer.lexicon.syntax import MAX_AT_URI, is_at_uri
from xrpc.errors import InvalidRequestError

Key = tuple[int, str]  # a time in Unix ms, and an AT-URI: the order of a list

_MAX = 2 * MAX_AT_URI  # characters
_INTEGERS = range(-(2**63), 2**63)


def encode(key: Key) -> str:
    """Return the cursor of the page that goes on behind this row."""
    text = json.dumps(key, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str) -> Key:
    """Return the row behind which to go on; raise InvalidRequest for what `encode` never gave."""
    try:
        if len(cursor) > _MAX:
            raise ValueError
        padded = cursor + "=" * (-len(cursor) % 4)
        match json.loads(base64.b64decode(padded, altchars=b"-_", validate=True)):
            case [int(at), str(uri)] if at in _INTEGERS and is_at_uri(uri):
                key = (int(at), uri)  # JSON's true is an integer too
            case _:
                raise ValueError
        if encode(key) != cursor:
            raise ValueError
    except (ValueError, binascii.Error, RecursionError):
        raise InvalidRequestError("cursor: not one that this method gave") from None
    return key
