// A client that was generated from lexicon documents by the official tool; it checks what it sends
// and what it is answered against them. Settings: generated (the directory with its code).
// POST {nsid, url, token, params?, body?}: the service at `url` is called with the service token.
// The answer: {data} or {error}.
import { once } from 'node:events'
import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'

import { Client } from '@atproto/lex'

import { serveUntilEnd, settings } from './process.mjs'

async function call({ nsid, url, token, params, body }) {
  const { main } = await import(`${settings.generated}/${nsid.replaceAll('.', '/')}.defs.ts`)
  const client = new Client({ service: url, headers: { authorization: `Bearer ${token}` } })
  const { body: data } = await client.xrpc(main, { params, body })
  return data
}

async function answer(request) {
  try {
    return { data: await call(await json(request)) }
  } catch (error) {
    return { error: { kind: error.constructor.name, name: error.error, message: error.message } }
  }
}

const server = createServer((request, response) => {
  answer(request).then((value) => response.end(JSON.stringify(value)))
})
await once(server.listen(0, '127.0.0.1'), 'listening')
serveUntilEnd(server.address().port, () => server.close())
