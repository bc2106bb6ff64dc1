// Service tokens by the libraries that clients and PDSes use; prints one JSON object and ends.
// Settings: `claims` of a token but for `iss`, and `keys`: of each algorithm `iss`, `jwk`, `hex`.
// `jose` and `@atproto/xrpc-server` are here because the PDS itself signs by them.
import { webcrypto } from 'node:crypto'

import { P256Keypair, Secp256k1Keypair } from '@atproto/crypto'
import { createServiceJwt } from '@atproto/xrpc-server'
import { SignJWT, importJWK } from 'jose'

import { settings } from './process.mjs'

const HALF = {
  ES256K: 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n / 2n,
  ES256: 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n / 2n,
}
const { claims, keys } = settings
const jti = () => webcrypto.randomUUID()
const base64url = (value) => Buffer.from(value).toString('base64url')

async function byJose(alg, { iss, jwk }) {
  const key = await importJWK(jwk, alg)
  return new SignJWT({ ...claims, iss, jti: jti() }).setProtectedHeader({ alg }).sign(key)
}

async function byWebCrypto(alg, { iss, jwk }) {
  const curve = { name: 'ECDSA', namedCurve: 'P-256' }
  const key = await webcrypto.subtle.importKey('jwk', jwk, curve, false, ['sign'])
  const parts = [{ alg, typ: 'JWT' }, { ...claims, iss, jti: jti() }]
  const signed = parts.map((part) => base64url(JSON.stringify(part))).join('.')
  const how = { name: 'ECDSA', hash: 'SHA-256' }
  const signature = await webcrypto.subtle.sign(how, key, Buffer.from(signed))
  return `${signed}.${base64url(new Uint8Array(signature))}`
}

async function byXrpcServer(alg, { iss, hex }) {
  const kind = alg === 'ES256K' ? Secp256k1Keypair : P256Keypair
  return createServiceJwt({ ...claims, iss, keypair: await kind.import(hex) })
}

/** Sign until the token has the higher value of s, or the lower one. */
async function withS(isHigh, sign, alg) {
  for (;;) {
    const token = await sign(alg, keys[alg])
    const signature = Buffer.from(token.split('.')[2], 'base64url')
    if (BigInt(`0x${signature.subarray(32).toString('hex')}`) > HALF[alg] === isHigh) return token
  }
}

const tokens = {
  'xrpc-server ES256K low S': await byXrpcServer('ES256K', keys.ES256K),
  'xrpc-server ES256 low S': await byXrpcServer('ES256', keys.ES256),
}
for (const [name, isHigh] of [['low S', false], ['high S', true]]) {
  tokens[`jose ES256K ${name}`] = await withS(isHigh, byJose, 'ES256K')
  tokens[`jose ES256 ${name}`] = await withS(isHigh, byJose, 'ES256')
  tokens[`WebCrypto ES256 ${name}`] = await withS(isHigh, byWebCrypto, 'ES256')
}
process.stdout.write(JSON.stringify(tokens))
