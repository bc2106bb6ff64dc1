// The reference consumer on the same stream: @atproto/sync, authenticated, and filtered by our
// collections. Arguments: the directory of the corpus, the relay's URL, the seq to read behind,
// the last seq, and how many events come up to it. Prints what it took as JSON.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(new URL('../../tests/localnet/package.json', import.meta.url))
const { Firehose } = require('@atproto/sync')

const [directory, service, ...numbers] = process.argv.slice(2)
const [cursor, last, expected] = numbers.map(Number)
const { ours } = JSON.parse(readFileSync(`${directory}/corpus.json`, 'utf8'))
const keys = new Map(ours.map(({ did, key }) => [did, key]))

let events = 0
let seq = cursor
const { promise: all, resolve, reject } = Promise.withResolvers()
const firehose = new Firehose({
  service,
  getCursor: () => cursor,
  filterCollections: [
    'rsvp.atmo.space',
    'rsvp.atmo.space.invite',
    'app.bsky.graph.verification',
  ],
  // Nobody's documents are fetched, and no handle is looked up: the answers are here.
  idResolver: { did: { resolveAtprotoKey: async (did) => keys.get(did), resolve: async () => null } },
  unauthenticatedHandles: true,
  handleEvent: (event) => {
    assert(event.seq >= seq, `${event.seq} comes behind ${seq}`)
    assert(event.event !== 'create' || event.record)
    seq = event.seq
    events += 1
    // The last frame is one of ours, or about an account: it is heard of.
    if (events === expected) resolve()
  },
  onError: reject,
})

const start = performance.now()
const before = process.cpuUsage()
firehose.start()
await all
const seconds = (performance.now() - start) / 1000
const { user, system } = process.cpuUsage(before)
assert.equal(seq, last)
console.log(JSON.stringify({ seconds, cpu: (user + system) / 1e6, peak: memory(), events, last: seq }))
process.exit()

// The most bytes that this process has had. Not `maxRSS` on Linux, where that begins at what the
// parent had.
function memory() {
  try {
    const status = readFileSync('/proc/self/status', 'utf8')
    return Number(/^VmHWM:\s*(\d+) kB$/m.exec(status)[1]) * 1024
  } catch {
    return process.resourceUsage().maxRSS * 1024
  }
}
