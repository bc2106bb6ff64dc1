"""The string formats: the official vectors where they are present, and our own edges always."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.lexicon.syntax import (
    FORMATS,
    AtUri,
    count_graphemes,
    format_datetime,
    is_tid,
    parse_at_uri,
    parse_datetime,
    tid_time,
)

VECTORS = Path(__file__).parents[3].parent / "shared" / "fixtures" / "interop" / "syntax"
FILES = {
    "atidentifier": "at-identifier",
    "aturi": "at-uri",
    "recordkey": "record-key",
    **{name: name for name in FORMATS if "-" not in name},
}

DID = "did:plc:7iza6de2dwap2sbkpav7c6c6"
LABEL = "o" * 63

VALID = {
    "did": [
        DID,
        "did:web:localhost%3A1234",
        "did:m:v",
        "did:method::::val",
        "did:a:" + "b" * 2042,
    ],
    "handle": [
        "a.co",
        "XX.LCS.MIT.EDU",
        f"{LABEL}.test",
        "xn--ls8h.test",
        "8.cn",
        "a." * 126 + "b",
        "laptop.local",
    ],
    "at-identifier": [DID, "a.co"],
    "nsid": [
        "com.example.fooBar",
        "a.b.c",
        "one.2.three",
        f"com.{LABEL}.{LABEL}",
        "com." + "middle." * 44 + "fooxx",
    ],
    "tid": ["3jzfcijpj2z2a", "2222222222222", "7777777777777", "jzzzzzzzzzzzz"],
    "record-key": ["self", "...", "_", "~1.2-3_", "pre:fix", "a" * 512],
    "at-uri": [
        f"at://{DID}",
        "at://a.co/com.example.foo",
        f"at://{DID}/com.example.foo/self",
        f"at://did:a:{'b' * 2042}/com.{LABEL}.{LABEL}/{'k' * 512}",
    ],
    "cid": [
        "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq",
        "zdj7WWeQ43G6JJvLWQWZpyHuAMq6uYWRjkBXFad11vE2LHhQ7",
        "a" * 8,
        "a" * 256,
    ],
    "datetime": [
        "1985-04-12T23:20:50.123Z",
        "1985-04-12T23:20:50Z",
        "1985-04-12T23:20:50.123-07:00",
        "0000-01-01T00:00:00.000Z",
        "9999-12-31T23:59:59.999Z",
        "2024-02-29T00:00:00Z",
        "2024-01-01T00:00:00+00:00",
        "2024-01-01T00:00:00+23:59",
        f"2024-01-01T00:00:00.{'1' * 43}Z",
    ],
    "language": [
        "ja",
        "ban",
        "pt-BR",
        "hy-Latn-IT-arevela",
        "en-GB-oed",
        "i-navajo",
        "X-fr-CH",
        "zh-min-nan",
        "en-GB-boont-r-extended-sequence-x-private",
        "x" + "-1234567" * 15 + "-123456",
    ],
    "uri": ["https://example.com/?q=1#f", "dns:a", "go://?Mercedes%20Benz", "a:" + "x" * 8190],
}

INVALID = {
    "did": [
        "",
        "did:METHOD:val",
        "DID:method:val",
        "did:method:val:",
        "did:method:val%",
        "did:method:",
        "did:m1:v",
        f"{DID}#atproto",
        f"{DID}/path",
        "did:a:é",
        "did:a:" + "b" * 2043,
    ],
    "handle": [
        "",
        "org",
        "john.0",
        "john..test",
        "-john.test",
        "john-.test",
        "a.co.",
        "127.0.0.1",
        "jo_hn.test",
        f"o{LABEL}.test",
        "aa." + "a." * 125 + "b",
        "bücher.test",
        "a.c\uff4f",
    ],
    "at-identifier": ["", "did", "@a.co", "DID:method:val"],
    "nsid": [
        "",
        "example.com",
        "com.example.foo.*",
        "com.example.foo-bar",
        "com.example.2foo",
        "0two.example.foo",
        "com.example-.foo",
        "com.example.foo#bar",
        f"com.o{LABEL}.foo",
        f"com.example.o{LABEL}",
        "com." + "middle." * 44 + "fooxxx",
    ],
    "tid": [
        "",
        "3jzfcijpj2z2",
        "3jzfcijpj2z2aa",
        "3jzfcijpj2z21",
        "3JZFCIJPJ2Z2A",
        "k222222222222",
    ],
    "record-key": ["", ".", "..", "a/b", "a b", "#a", "a+b", "é", "a" * 513],
    "at-uri": [
        "",
        "at://",
        "AT://a.co",
        "at:/a.co",
        "at://a.co/",
        "at://a.co//self",
        "at://a.co/com.example.foo/",
        "at://a.co/com.example.foo/..",
        "at://a.co/com.example.foo/a/b",
        "at://a.co/short/self",
        "at://a.co?q=1",
        "at://a.co/com.example.foo/self#frag",
        f"at://{DID}#frag",
        f" at://{DID}",
        f"at://did:a:{'b' * 2043}",
        f"at://a.co/com.example.foo/{'k' * 513}",
    ],
    "cid": ["", "a" * 7, "a" * 257, "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR", "bafy/bafy"],
    "datetime": [
        "",
        "1985-04-12",
        "1985-04-12T23:20Z",
        "1985-04-12T23:20:50",
        "1985-04-12 23:20:50Z",
        "1985-04-12t23:20:50Z",
        "1985-04-12T23:20:50z",
        "1985-04-12T23:20:50.Z",
        "1985-04-12T23:20:50-00:00",
        "1985-04-12T23:20:50+0000",
        "1985-04-12T23:20:50+24:00",
        "1985-04-12T23:20:50+01:60",
        "1985-04-12T24:00:00Z",
        "1985-04-12T23:60:00Z",
        "2016-12-31T23:59:60Z",
        "1985-00-12T23:20:50Z",
        "1985-13-12T23:20:50Z",
        "1985-04-00T23:20:50Z",
        "1985-04-31T23:20:50Z",
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "0000-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "١٩٨٥-04-12T23:20:50Z",
        f"2024-01-01T00:00:00.{'1' * 44}Z",
    ],
    "language": [
        "",
        "j",
        "jaja",
        "JA",
        "ja-",
        "a-DE",
        "123",
        "en--GB",
        "en-abcdefghi",
        "en-a",
        "x" + "-1234567" * 16,
    ],
    "uri": [
        "",
        "example.com",
        "http:",
        ".http://a",
        "1a:b",
        "https://a/b c",
        "https://a/é",
        "a:" + "x" * 8191,
    ],
}


def vectors(part: str, verdict: str) -> list[tuple[str, str]]:
    """Read the official files of one part (`syntax`, `parse`) as pairs of a format and a text."""
    return [
        (format_, line)
        for stem, format_ in FILES.items()
        if (file := VECTORS / f"{stem}_{part}_{verdict}.txt").exists()
        for line in file.read_text(encoding="utf-8").split("\n")
        if line and not line.startswith("#")
    ]


def pairs(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(format_, text) for format_, texts in table.items() for text in texts]


def short(value: str) -> str:
    return ascii(value[:60])[1:-1]


def test_every_format_has_cases_of_both_kinds():
    assert VALID.keys() == INVALID.keys() == FORMATS.keys()


@pytest.mark.parametrize(("format_", "text"), pairs(VALID) + vectors("syntax", "valid"), ids=short)
def test_a_well_formed_text_is_accepted(format_, text):
    assert FORMATS[format_](text)


@pytest.mark.parametrize(
    ("format_", "text"),
    pairs(INVALID)
    + vectors("syntax", "invalid")
    + [case for case in vectors("parse", "invalid") if case[0] == "datetime"],
    ids=short,
)
def test_a_malformed_text_is_refused(format_, text):
    assert not FORMATS[format_](text)


@pytest.mark.parametrize(
    ("format_", "text"),
    [case for case in vectors("parse", "invalid") if case[0] == "language"]
    + [("language", "de-DE-1901-1901"), ("language", "en-a-foo-a-bar")],
    ids=short,
)
def test_a_language_tag_has_to_be_well_formed_only(format_, text):
    assert FORMATS[format_](text)


@pytest.mark.parametrize(("format_", "text"), pairs(VALID), ids=short)
@pytest.mark.parametrize("extra", ["\n", "\r\n", " ", "\0", "\u2028", "\ud800"], ids=ascii)
def test_nothing_may_stand_around_a_valid_text(format_, text, extra):
    assert not FORMATS[format_](text + extra)
    assert not FORMATS[format_](extra + text)


HEADS = ("", "did:a:", "at://", "at://a.co/", "at://a.co/a.b.c/", "a.", "en-", "x-", "a:", "2024-")


@given(
    head=st.sampled_from((*HEADS, "2024-01-01T00:00:00.")),
    body=st.text(st.characters(), min_size=1, max_size=8) | st.text("aA0-.:/%_é\n", min_size=1),
    tail=st.text(st.characters(), max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_a_hostile_text_of_100_kb_gets_its_answer_at_once(head, body, tail):
    text = head + body * (100_000 // len(body)) + tail
    for format_, check in FORMATS.items():
        start = time.thread_time()
        assert check(text) is False
        for longest_allowed in (128, 253, 317, 2048, 8192):
            assert check(text[:longest_allowed]) in (True, False)
        assert time.thread_time() - start < 0.1, format_


@pytest.mark.parametrize("body", ["a", "a.", "a-", "-a", "aaa-", "-1234567", "a:", "0"])
def test_a_text_that_fails_at_its_very_end_is_not_tried_in_many_ways(body):
    for head in HEADS:
        for size in (128, 253, 317, 2048, 8192):
            text = (head + body * size)[: size - 1] + "!"
            for check in FORMATS.values():
                start = time.thread_time()
                check(text)
                assert time.thread_time() - start < 0.1


@given(st.text(st.characters()))
def test_any_text_at_all_gets_an_answer(text):
    assert all(check(text) in (True, False) for check in FORMATS.values())
    for parse in (parse_at_uri, parse_datetime, tid_time):
        with suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("at://a.co", AtUri("a.co", None, None)),
        (f"at://{DID}/com.example.foo", AtUri(DID, "com.example.foo", None)),
        (f"at://{DID}/com.example.foo/a:b", AtUri(DID, "com.example.foo", "a:b")),
    ],
)
def test_an_at_uri_comes_apart_and_together_again(text, parts):
    assert parse_at_uri(text) == parts
    assert str(parts) == text


def test_an_at_uri_in_error_is_told_its_form_and_not_repeated():
    with pytest.raises(ValueError, match=r"expected at://") as caught:
        parse_at_uri("at://s3cret")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1970-01-01T00:00:00.1Z", 100),
        ("1970-01-01T00:00:00.0019999999999999Z", 1),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("1970-01-01T01:45:00+01:45", 0),
        ("1969-12-31T17:00:00-07:00", 0),
        ("0000-01-01T00:00:00Z", -62_167_219_200_000),
        ("0000-02-29T00:00:00Z", -62_162_121_600_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_a_datetime_becomes_milliseconds_rounded_down(text, ms):
    assert parse_datetime(text) == ms


@given(st.datetimes(timezones=st.just(UTC)))
def test_datetimes_agree_with_the_standard_library(moment):
    ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000
    text = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert abs(parse_datetime(text) - ms) <= 1


@given(st.integers(-62_167_219_200_000, 253_402_300_799_999))
def test_milliseconds_become_the_datetime_that_tells_them(ms):
    text = format_datetime(ms)
    assert len(text) == len("2026-01-31T12:00:00.000Z")
    assert parse_datetime(text) == ms


def test_milliseconds_of_no_year_that_can_be_written_are_refused():
    for ms in (-62_167_219_200_001, 253_402_300_800_000):
        with pytest.raises(ValueError, match="not a time"):
            format_datetime(ms)


def test_a_datetime_in_error_is_told_its_form():
    with pytest.raises(ValueError, match=r"expected the form 2026-01-31T12:00:00\.000Z"):
        parse_datetime("yesterday")


@given(st.integers(0, 2**53 - 1), st.integers(0, 1023))
def test_a_tid_tells_its_microseconds_whatever_its_clock(micros, clock):
    value = micros << 10 | clock
    digits = "234567abcdefghijklmnopqrstuvwxyz"
    tid = "".join(digits[value >> shift & 31] for shift in range(60, -1, -5))
    assert is_tid(tid)
    assert tid_time(tid) == micros


def test_what_is_no_tid_has_no_time():
    with pytest.raises(ValueError, match="13 digits"):
        tid_time("3jzfcijpj2z2a\n")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("abc", 3),
        ("\r\n\n\r", 3),
        ("e\u0301", 1),
        ("\u0301a", 2),
        ("🇩🇪🇫🇷🇩", 3),
        ("👩‍👩‍👦‍👦", 1),
        ("🏳️‍🌈", 1),
        ("👍🏽", 1),
        ("a\u200db", 2),
        ("각", 1),
        ("\u1112\u1161\u11ab", 1),
        ("한글", 2),
        ("가\u11a8", 1),
        ("กำ", 1),
        ("🏴\U000e0067\U000e0062\U000e007f", 1),
        ("\u0000\u0301", 2),
    ],
    ids=ascii,
)
def test_graphemes_are_counted_as_people_see_them(text, count):
    assert count_graphemes(text) == count


@pytest.mark.parametrize("char", ["a", "\u0301", "\u200d", "🇩", "👩", "\u1112", "👩\u0301"])
def test_graphemes_of_a_long_text_are_counted_in_linear_time(char):
    start = time.thread_time()
    count_graphemes(char * (100_000 // len(char)))
    assert time.thread_time() - start < 1
