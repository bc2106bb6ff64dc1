#!/usr/bin/env bash
# The Python SDK (atproto 0.0.73) can pick a record's model by its $type: get_or_create(record).
# What comes back depends on whether the SDK ships that lexicon, and not in the way one expects:
#
#   record                                strict (the default)   strict=False
#   of a lexicon it ships, well-formed    raises ModelError      the model
#   of a lexicon it ships, a field less   raises ModelError      a DotDict
#   of any other lexicon                  None                   None
#   ... inside an answer of getRecord     a DotDict              a DotDict
#
# So a reader of the firehose that follows the SDK's examples sees nothing of a custom collection
# and is not told, while a malformed record of a known one comes through. The guess was a model for
# what it ships and a DotDict for the rest. Seen 2026-12-01.
#
# Needs: bash, python >= 3.11 with venv. Exits 1 when any answer changes.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
cd -- "$work"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check atproto==0.0.73

cat >ask.py <<'PY'
from atproto import models
from atproto_client.models.utils import get_or_create

KNOWN = {
    "$type": "app.bsky.graph.verification",
    "subject": "did:plc:ewvi7nxzyoun6zhxrhs64oiz",
    "handle": "a.test",
    "displayName": "A",
    "createdAt": "2026-01-01T00:00:00Z",
}
SHORT = {name: value for name, value in KNOWN.items() if name != "handle"}
CUSTOM = {"$type": "rsvp.atmo.space", "createdAt": "2026-01-01T00:00:00Z"}


def kind(*args, **kwargs):
    try:
        return type(get_or_create(*args, **kwargs)).__name__
    except Exception as error:
        return type(error).__name__


for name, record in (("known", KNOWN), ("short", SHORT), ("custom", CUSTOM)):
    print(name, kind(record), kind(record, strict=False))

answer = {"uri": "at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/rsvp.atmo.space/a", "value": CUSTOM}
model = models.ComAtprotoRepoGetRecord.Response
print("answer", type(get_or_create(answer, model).value).__name__)
PY

cat >expected.txt <<'TXT'
known ModelError Record
short ModelError DotDict
custom NoneType NoneType
answer DotDict
TXT

venv/bin/python ask.py >seen.txt
cat seen.txt
diff expected.txt seen.txt
