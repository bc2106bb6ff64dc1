"""String formats of atproto: identifiers, times and links, as strangers may write them.

Every check is total (any `str` gives an answer), compares the whole string, and looks at the
length first, so that a pattern never runs over more than a few thousand characters. Errors do
not repeat the text: it may be a secret in the wrong place.

Sources: atproto.com/specs/{did,handle,nsid,tid,record-key,at-uri-scheme,lexicon}.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from unicodedata import category

MAX_DID = 2048  # characters
MAX_HANDLE = 253  # characters, as any DNS name
MAX_NSID = 317  # characters: 253 for the authority, a dot, 63 for the name
MAX_AT_URI = 8192  # characters
MAX_URI = 8192  # characters
MAX_DATETIME = 64  # characters
MAX_LANGUAGE = 128  # characters

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_ALPHA_LABEL = r"[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"

_DID: Final = re.compile(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]")
_HANDLE: Final = re.compile(rf"(?:{_LABEL}\.)+{_ALPHA_LABEL}")
_NSID: Final = re.compile(rf"{_ALPHA_LABEL}(?:\.{_LABEL})+\.[a-zA-Z][a-zA-Z0-9]{{0,62}}")
_TID: Final = re.compile(r"[2-7a-j][2-7a-z]{12}")
_RECORD_KEY: Final = re.compile(r"[a-zA-Z0-9_~.:-]{1,512}")
_AT_URI: Final = re.compile(r"at://([^/]*)(?:/([^/]*)(?:/([^/]*))?)?")  # into parts to be checked
_URI: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,80}:[!-~]+")
_CID: Final = re.compile(r"[a-zA-Z0-9+=]{8,256}")
_DATETIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])"
    r"(?:\.([0-9]+))?(?:Z|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)
# RFC 5646, section 2.1, with the two- and three-letter languages that atproto speaks of. Of the
# grandfathered tags only the irregular ones need a mention: the others fit the grammar.
_LANGUAGE: Final = re.compile(
    r"""
      [a-z]{2,3} (?:-[A-Za-z]{3}){0,3}
      (?:-[A-Za-z]{4})?                                     # script
      (?:-(?:[A-Za-z]{2}|[0-9]{3}))?                        # region
      (?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}))*        # variants
      (?:-[0-9A-WY-Za-wy-z](?:-[A-Za-z0-9]{2,8})+)*         # extensions
      (?:-[xX](?:-[A-Za-z0-9]{1,8})+)?                      # private use
    | [xX](?:-[A-Za-z0-9]{1,8})+
    | i-(?:ami|bnn|default|enochian|hak|klingon|lux|mingo|navajo|pwn|tao|tay|tsu)
    | en-GB-oed | sgn-BE-FR | sgn-BE-NL | sgn-CH-DE
    """,
    re.VERBOSE,
)

_BASE32 = "234567abcdefghijklmnopqrstuvwxyz"
# To the digits that Python has for numbers of that base.
_TID_DIGITS = str.maketrans(_BASE32, "0123456789abcdefghijklmnopqrstuv")
_EPOCH = date(1970, 1, 1).toordinal()  # days
_FIRST_MS = -62_167_219_200_000  # 0000-01-01T00:00:00Z
_END_MS = 253_402_300_800_000  # 10000-01-01T00:00:00Z


def is_did(text: str) -> bool:
    """Tell whether this is a DID of any method, without path, query or fragment."""
    return len(text) <= MAX_DID and _DID.fullmatch(text) is not None


def is_handle(text: str) -> bool:
    """Tell whether this is a handle: a DNS name of two labels or more, in any case."""
    return len(text) <= MAX_HANDLE and _HANDLE.fullmatch(text) is not None


def is_at_identifier(text: str) -> bool:
    """Tell whether this is a DID or a handle."""
    return is_did(text) or is_handle(text)


def is_nsid(text: str) -> bool:
    """Tell whether this is an NSID, without fragment or wildcard."""
    return len(text) <= MAX_NSID and _fits_nsid(text)


def is_tid(text: str) -> bool:
    """Tell whether this is a TID: 13 digits of sortable base32, the high bit clear."""
    return _TID.fullmatch(text) is not None


def is_record_key(text: str) -> bool:
    """Tell whether this is a record key of the key type `any`."""
    return _RECORD_KEY.fullmatch(text) is not None and text not in {".", ".."}


def is_at_uri(text: str) -> bool:
    """Tell whether this is an AT-URI as lexicons allow it: no query, fragment or empty part."""
    return _split_at_uri(text) is not None


def is_cid(text: str) -> bool:
    """Tell whether this looks like a CIDv1 in string form; its multihash is not opened."""
    return _CID.fullmatch(text) is not None and not text.startswith("Qm")


def is_datetime(text: str) -> bool:
    """Tell whether this is a datetime with a zone, of a day that exists, in years 0000 to 9999."""
    return _unix_ms(text) is not None


def is_language(text: str) -> bool:
    """Tell whether this is a well-formed BCP 47 tag (which need not be a valid one)."""
    return len(text) <= MAX_LANGUAGE and _LANGUAGE.fullmatch(text) is not None


def is_uri(text: str) -> bool:
    """Tell whether this is a URI of any scheme, in printable ASCII without blanks."""
    return len(text) <= MAX_URI and _URI.fullmatch(text) is not None


FORMATS: Final[Mapping[str, Callable[[str], bool]]] = MappingProxyType(
    {
        "did": is_did,
        "handle": is_handle,
        "at-identifier": is_at_identifier,
        "nsid": is_nsid,
        "tid": is_tid,
        "record-key": is_record_key,
        "at-uri": is_at_uri,
        "cid": is_cid,
        "datetime": is_datetime,
        "language": is_language,
        "uri": is_uri,
    }
)
"""The check for each string format that a lexicon may name."""


@dataclass(frozen=True, slots=True)
class AtUri:
    """An AT-URI in its parts; `str()` gives back what was parsed.

    `authority` is a DID or a handle, as written. `collection` is None when the URI names a whole
    repo; `rkey` is None when it names a collection or a repo.
    """

    authority: str
    collection: str | None
    rkey: str | None

    def __str__(self) -> str:
        parts = (self.authority, self.collection, self.rkey)
        return "at://" + "/".join(part for part in parts if part is not None)


def parse_at_uri(text: str) -> AtUri:
    """Return the parts of an AT-URI; ValueError says what one looks like."""
    uri = _split_at_uri(text)
    if uri is None:
        raise ValueError("not an AT-URI: expected at://<DID or handle>/<collection>/<rkey>")
    return uri


def parse_datetime(text: str) -> int:
    """Return Unix milliseconds, rounded down; negative before 1970.

    Takes exactly what `is_datetime` accepts, which begins with the year 0000: more than the
    standard library's `datetime` can hold. ValueError says what is expected.
    """
    ms = _unix_ms(text)
    if ms is None:
        raise ValueError("not a datetime: expected the form 2026-01-31T12:00:00.000Z")
    return ms


def format_datetime(ms: int) -> str:
    """Return the datetime of Unix milliseconds, in UTC: what `parse_datetime` reads.

    ValueError for what lies outside of the years 0000 to 9999.
    """
    if not _FIRST_MS <= ms < _END_MS:
        raise ValueError("not a time: outside of the years 0000 to 9999")
    days, ms = divmod(ms, 86_400_000)
    # The calendar repeats every 400 years (146,097 days), and `date` has no year 0.
    early = days + _EPOCH < 1
    day = date.fromordinal(days + _EPOCH + (146_097 if early else 0))
    year = day.year - (400 if early else 0)
    seconds, ms = divmod(ms, 1000)
    hours, minutes = divmod(seconds // 60, 60)
    return (
        f"{year:04}-{day.month:02}-{day.day:02}T{hours:02}:{minutes:02}:{seconds % 60:02}.{ms:03}Z"
    )


def tid_at(ms: int) -> str:
    """Return the first TID of a moment, in Unix ms."""
    value = ms * 1000 << 10
    return "".join(_BASE32[value >> shift & 31] for shift in range(60, -1, -5))


def tid_time(rev: str) -> int:
    """Return the time in a TID, as microseconds since 1970; ValueError if it is none."""
    if not is_tid(rev):
        raise ValueError(
            "not a TID: expected 13 digits of base32, the first of them 2 to 7 or a to j"
        )
    return int(rev.translate(_TID_DIGITS), 32) >> 10  # the low 10 bits tell clocks apart


@lru_cache(1_024)  # nearly all records are of a few collections
def _fits_nsid(text: str) -> bool:
    return _NSID.fullmatch(text) is not None


@lru_cache(16)  # what is checked to be an AT-URI is then taken apart; a list names one space
def _split_at_uri(text: str) -> AtUri | None:
    match = _AT_URI.fullmatch(text) if len(text) <= MAX_AT_URI else None
    if match is None:
        return None
    authority, collection, rkey = match.groups()
    fits = (
        is_at_identifier(authority)
        and (collection is None or is_nsid(collection))
        and (rkey is None or is_record_key(rkey))
    )
    return AtUri(authority, collection, rkey) if fits else None


@lru_cache(16)  # what is checked to be a time is then read as one
def _unix_ms(text: str) -> int | None:
    match = _DATETIME.fullmatch(text) if len(text) <= MAX_DATETIME else None
    # RFC 3339 reads -00:00 as "zone unknown", ISO 8601 forbids it, and so does atproto.
    if match is None or text.endswith("-00:00"):
        return None
    year, month, day, hour, minute, second = map(int, match.group(1, 2, 3, 4, 5, 6))
    fraction, sign, offset_hours, offset_minutes = match.group(7, 8, 9, 10)
    try:
        # The calendar repeats every 400 years (146,097 days), and `date` has no year 0.
        days = date(year or 400, month, day).toordinal() - _EPOCH - (0 if year else 146_097)
    except ValueError:
        return None
    minutes = (days * 24 + hour) * 60 + minute
    if sign is not None:
        minutes -= int(sign + "1") * (int(offset_hours) * 60 + int(offset_minutes))
    ms = (minutes * 60 + second) * 1000 + int(((fraction or "") + "000")[:3])
    return ms if _FIRST_MS <= ms < _END_MS else None


def count_graphemes(text: str) -> int:
    """Count extended grapheme clusters (UAX 29), in linear time.

    `unicodedata` does not know every property that the annex uses: prepended marks and Indic
    conjuncts count apart, and any two symbols joined by a ZWJ count as one emoji.
    """
    return sum(1 for _ in _CLUSTER.finditer("".join(map(_cluster_class, text))))


def _cluster_class(char: str) -> str:
    code = ord(char)
    for first, last, letter in _CLUSTER_RANGES:
        if first <= code <= last:
            return letter
    if 0xAC00 <= code <= 0xD7A3:  # Hangul syllables: every 28th has no final consonant
        return "B" if (code - 0xAC00) % 28 else "A"
    kind = category(char)
    if kind[0] == "M":
        return "e"
    if kind in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return "c"
    return "P" if kind in {"So", "Sm"} else "o"


# One letter for each class: r, n and c break on both sides, e extends what is before it, j is the
# ZWJ, P a symbol, R half a flag; L, V, T, A and B are the letters and syllables of Hangul.
_CLUSTER: Final = re.compile(r"rn|[rnc]|(?:RR|P(?:e*jP)*|L*(?:AV*|V+|B)T*|L+|T+|.)[ej]*")
_CLUSTER_RANGES: Final = (
    (0x0A, 0x0A, "n"),
    (0x0D, 0x0D, "r"),
    (0x20, 0x7E, "o"),
    (0x0E33, 0x0E33, "e"),
    (0x0EB3, 0x0EB3, "e"),
    (0x1100, 0x115F, "L"),
    (0x1160, 0x11A7, "V"),
    (0x11A8, 0x11FF, "T"),
    (0x200C, 0x200C, "e"),
    (0x200D, 0x200D, "j"),
    (0xA960, 0xA97C, "L"),
    (0xD7B0, 0xD7C6, "V"),
    (0xD7CB, 0xD7FB, "T"),
    (0xFF9E, 0xFF9F, "e"),
    (0x1F1E6, 0x1F1FF, "R"),
    (0x1F3FB, 0x1F3FF, "e"),
    (0x1F000, 0x1FAFF, "P"),
    (0xE0020, 0xE007F, "e"),
)
