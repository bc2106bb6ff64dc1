// The reference consumer on the same stream: @atproto/sync proves each commit and hands it over.
// Arguments: the directory of the corpus, and the relay's URL. Prints what it took as JSON.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(new URL('../../tests/localnet/package.json', import.meta.url))
const { Firehose } = require('@atproto/sync')

const [directory, service] = process.argv.slice(2)
const { commits, repos } = JSON.parse(readFileSync(`${directory}/corpus.json`, 'utf8'))
const keys = new Map(repos.map(({ did, key }) => [did, key]))

const seen = new Set()
const { promise: all, resolve, reject } = Promise.withResolvers()
const firehose = new Firehose({
  service,
  getCursor: () => 0,
  idResolver: { did: { resolveAtprotoKey: async (did) => keys.get(did) } },
  handleEvent: (event) => {
    assert.equal(event.event, 'create')
    assert(event.record)
    seen.add(event.uri.toString())
    if (seen.size === commits) resolve()
  },
  onError: reject,
})

const start = performance.now()
const before = process.cpuUsage()
firehose.start()
await all
const seconds = (performance.now() - start) / 1000
const { user, system } = process.cpuUsage(before)
console.log(JSON.stringify({ seconds, cpu: (user + system) / 1e6 }))
process.exit()
