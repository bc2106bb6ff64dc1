"""Texts that fit a lexicon's formats and types, to their limits, and others that nearly do."""

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
AT_URI = f"at://{DID}/com.example.thing/3jzfcijpj2z2a"
TIME = "2026-01-31T12:00:00.000Z"
CID = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq"
LONG_NSID = ".".join(["a" * 63] * 3 + ["a" * 61, "b" * 63])  # 253 characters, a dot, 63

# Of each format what fits, the first as the example, and what does not.
FORMATS: dict[str, tuple[list[str], list[str]]] = {
    "at-uri": (
        [
            AT_URI,
            f"at://{DID}",
            "at://nobody.test/com.example.thing/self",
            f"at://did:plc:{'a' * 2040}/{LONG_NSID}/{'k' * 512}",
        ],
        [
            "", "x", "at://", DID, "https://example.com", "at:/x", AT_URI + "\n", AT_URI + "/x",
            AT_URI + "#x", AT_URI + "?x", f"at://{DID}/x", f"at://{DID}//x", f" {AT_URI}",
            f"at://{DID}/com.example.thing/{'k' * 513}", f"{AT_URI}{'k' * 8192}",
        ],
    ),
    "did": (
        [DID, "did:web:localhost", "did:example:a:b:%20c", "did:plc:" + "a" * 2040],
        ["", "x", "did:", "did:plc:", "DID:plc:a", DID + "\n", DID + "#x", "did:plc:" + "a" * 2041],
    ),
    "handle": (
        ["nobody.test", "XN--NOBODY.Test", f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 56}.test"],
        [
            "", "x", "@nobody.test", "nobody..test", ".test", "no_body.test", "nobody.test\n",
            DID, "127.0.0.1", f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 57}.test",
        ],
    ),
    "nsid": (
        ["com.example.thing", "a-1.b.c", LONG_NSID],
        ["", "x", "a.b", "com..thing", "com.example.1thing", "com.example.thing\n",
         "com.example.*", "com.example.thing#main", LONG_NSID + "b"],
    ),
    "datetime": (
        [TIME, "2024-02-29T23:59:59+23:59", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
         f"2026-01-31T12:00:00.{'0' * 43}Z"],
        ["", "x", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", TIME + "\n",
         "2026-01-31T12:00:00-00:00", "2026-01-31t12:00:00z", "20260131T120000Z", "1800000000",
         f"2026-01-31T12:00:00.{'0' * 44}Z"],
    ),
    "at-identifier": ([DID, "nobody.test"], ["", "x", AT_URI, DID + "\n"]),
    "tid": (["3jzfcijpj2z2a"], ["", "x", "3jzfcijpj2z2", "zzzzzzzzzzzzz", "3JZFCIJPJ2Z2A"]),
    "record-key": (["self", "k" * 512], ["", ".", "..", "a/b", "a b", "k" * 513]),
    "cid": ([CID], ["", "x", "Qm" + "a" * 44, CID + "\n"]),
    "language": (["en", "pt-BR"], ["", "x", "en_GB", "en\n"]),
    "uri": (["https://example.com/a"], ["", "x", "https://a b", "https://a\n"]),
}  # fmt: skip

FAMILY = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"  # one grapheme
# What a string may hold that no schema limits.
ODD_TEXTS = ["", "\0", " ", "x" * 2000, "e\N{COMBINING ACUTE ACCENT}", FAMILY, "a/../b", "';", "%"]

# Parameters are texts: what neither type is written like.
BAD_INTEGERS = [
    "", "x", " ", " 1", "1 ", "1\n", "1_0", "+1", "--1", "-", "1.0", "1e1", "0x1", "\u0661", "²",
    "9" * 19, "9" * 5000,
]  # fmt: skip
BAD_BOOLEANS = ["", "1", "0", "True", "TRUE", "yes", "true ", "null"]
BAD_TEXTS = {"integer": BAD_INTEGERS, "boolean": BAD_BOOLEANS}
