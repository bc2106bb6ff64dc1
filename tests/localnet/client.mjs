// The official client, which calls what it is told to over HTTP, as one of its accounts.
// Settings: service (URL of the PDS), proxy (`did#id`), accounts ([{did, password}]), lexicons
// (a directory: the client learns those documents that it lacks; its own stay as published).
// POST {as or at, nsid, params?, data?}: `as` is an account's DID; `at` is the URL of a service
// that is called directly and by nobody. The answer: {data, headers} or {error}.
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'

import { Agent, CredentialSession, XRPCError } from '@atproto/api'

import { serveUntilEnd, settings } from './process.mjs'

const documents = await Promise.all(
  (await readdir(settings.lexicons)).map(async (name) =>
    JSON.parse(await readFile(`${settings.lexicons}/${name}`, 'utf8')),
  ),
)
const agents = new Map(
  await Promise.all(settings.accounts.map(async (account) => [account.did, await login(account)])),
)

async function login({ did, password }) {
  const session = new CredentialSession(new URL(settings.service))
  await session.login({ identifier: did, password })
  const agent = taught(new Agent(session))
  agent.configureProxy(settings.proxy)
  return agent
}

function taught(agent) {
  for (const document of documents) {
    // A copy: `add` writes into what it is given.
    if (!agent.lex.get(document.id)) agent.lex.add(structuredClone(document))
  }
  return agent
}

/** Call by the function that the client has for the method, if it has one. */
async function call({ as, at, nsid, params, data }) {
  const agent = as ? agents.get(as) : taught(new Agent(at))
  const path = nsid.split('.')
  const name = path.pop()
  const namespace = path.reduce((parent, part) => parent?.[part], agent)
  return namespace?.[name]
    ? await namespace[name](data ?? params)
    : await agent.call(nsid, params, data)
}

async function answer(request) {
  try {
    const { data, headers } = await call(await json(request))
    return { data, headers }
  } catch (error) {
    if (!(error instanceof XRPCError)) throw error
    const { status, message, cause } = error
    const kind = error.constructor.name
    return { error: { kind, status, name: error.error, message, cause: cause?.message } }
  }
}

const server = createServer((request, response) => {
  answer(request).then(
    (value) => response.end(JSON.stringify(value)),
    (error) => response.writeHead(500).end(String(error.stack)),
  )
})
await once(server.listen(0, '127.0.0.1'), 'listening')
serveUntilEnd(server.address().port, () => server.close())
