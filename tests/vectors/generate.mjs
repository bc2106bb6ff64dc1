// Makes the vectors anew, with the packages of ../localnet:
//
//     node tests/vectors/generate.mjs
//
// Another run gives the same data: keys, DIDs, records, times and revisions come from seeds and
// counters. (The compressed bytes may differ where another zlib made them.)

import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { gzipSync } from 'node:zlib'
import { Host } from './host.mjs'
import { Writer } from './records.mjs'

const require = createRequire(new URL('../localnet/package.json', import.meta.url))
const { encode } = require('@atproto/lex-cbor')

const MAX_OPS = 200

/** Small trees that change their shape with nearly every commit. */
async function shapes(name, curve, churns) {
  const host = await Host.create(name, curve)
  const writer = new Writer(host.did, name)
  const put = (...paths) => Object.fromEntries(paths.map((path) => [path, writer.record(path)]))
  const drop = (...paths) => Object.fromEntries(paths.map((path) => [path, null]))

  const low = writer.pathAt(0, 'app.bsky.feed.post')
  const high = writer.pathAt(5, 'app.bsky.graph.follow')
  const left = writer.pathAt(0, 'app.bsky.feed.like')
  const right = writer.pathAt(0, 'rsvp.atmo.space')
  const leftHigh = writer.pathAt(6, 'app.bsky.actor.status')
  const rightHigh = writer.pathAt(6, 'rsvp.atmo.space.rsvp')
  const middle = writer.pathAt(3, 'app.bsky.graph.verification')

  await host.genesis('genesis, empty')
  await host.commit('the first record', put(low))
  await host.commit('the last record goes', drop(low))
  await host.commit('empty commit on an empty repo', {})
  await host.commit('a lone record in a high layer', put(high))
  await host.commit('a chain of keyless nodes to its left', put(left))
  await host.commit('a chain of keyless nodes to its right', put(right))
  await host.commit('the top goes, its two chains merge', drop(high))
  await host.commit('the top comes back and splits them', put(high))
  await host.commit('a higher first key', put(leftHigh))
  await host.commit('a higher last key', put(rightHigh))
  await host.sync('sync after the edges')
  await host.commit('the first key goes, the top with it', drop(leftHigh))
  await host.commit('the last key goes, the top with it', drop(rightHigh))
  await host.commit('both edges at once', put(leftHigh, rightHigh))
  await host.commit('both edges go at once', drop(rightHigh, leftHigh))
  await host.commit('empty commit', {})
  await host.commit('one moves, one stays', { ...drop(high), ...put(middle) })
  const same = writer.record('app.bsky.feed.post/x')
  const [one, two, three] = [0, 1, 2].map((layer) => writer.pathAt(layer, 'app.bsky.feed.post'))
  await host.commit('two paths with the same record', { [one]: same, [two]: same })
  await host.commit('a record moves to another path', { [one]: null, [three]: same })
  await host.commit('an update that changes nothing', { [three]: same })
  await host.commit('one of two same records goes', drop(two))
  await host.commit('all go at once', drop(...host.paths()))
  await host.commit('up again', put(left, low, middle, right, leftHigh))

  // As many keys in each layer, so that most nodes are keyless or have one key.
  const pool = [low, left, right, middle, high, leftHigh, rightHigh]
  for (let n = 0; n < 24; n += 1) pool.push(writer.pathAt(n % 6))
  for (let n = 0; n < churns; n += 1) {
    if (n % 40 === 39) {
      await host.commit('all go at once', drop(...writer.numbers.some(host.paths(), 99)))
      continue
    }
    const wide = writer.numbers.below(10)
    const count = wide < 6 ? 1 : wide < 9 ? 2 + writer.numbers.below(3) : 5 + writer.numbers.below(9)
    const changes = {}
    for (const path of writer.numbers.some(pool, count)) {
      const leave = host.records.has(path) && writer.numbers.below(3) > 0
      changes[path] = leave ? null : writer.record(path)
    }
    await host.commit(`churn of ${count}`, changes)
  }
  await host.sync('sync at the end')
  return save(host)
}

/** A repo of an active account: a few large commits, then mostly one op at a time. */
async function account(name, curve, size, commits) {
  const host = await Host.create(name, curve)
  const writer = new Writer(host.did, name)
  const fresh = (count) => {
    const paths = Array.from({ length: count }, () => writer.path())
    return Object.fromEntries(paths.map((path) => [path, writer.record(path)]))
  }
  const lobby = 'rsvp.atmo.space/lobby'
  await host.genesis('genesis with records', { [lobby]: writer.record(lobby), ...fresh(3) })
  while (host.records.size < size) {
    const count = Math.min(MAX_OPS, size - host.records.size)
    await host.commit(`${count} creates`, fresh(count))
  }
  let backup = null
  for (let n = 0; n < commits; n += 1) {
    if (n === commits >> 1) {
      backup = await host.car()
      await host.sync('sync halfway')
    }
    await host.commit(...(n % 25 === 24 ? many(host, writer, fresh) : few(host, writer, fresh)))
  }
  await host.commit('empty commit', {})
  return save(host, size > 1000 ? null : backup)
}

function few(host, writer, fresh) {
  const [path, ...more] = writer.numbers.some(host.paths(), 4)
  switch (writer.numbers.below(8)) {
    case 0:
      return ['update', { [path]: writer.record(path) }]
    case 1:
    case 2:
      return ['delete', { [path]: null }]
    case 3: {
      const update = { [more[0]]: writer.record(more[0]), [more[1]]: writer.record(more[1]) }
      return ['creates, updates and a delete', { [path]: null, ...fresh(2), ...update }]
    }
    default:
      return ['create', fresh(1)]
  }
}

function many(host, writer, fresh) {
  const paths = host.paths()
  const start = writer.numbers.below(paths.length - 60)
  const run = Object.fromEntries(paths.slice(start, start + 40).map((path) => [path, null]))
  if (writer.numbers.below(2)) return ['40 neighbours go', run]
  const third = Math.min(50, paths.length >> 3)
  const updates = writer.numbers.some(paths.slice(start + 40), third)
  const put = updates.map((path) => [path, writer.record(path)])
  return ['many of each kind', { ...fresh(third), ...run, ...Object.fromEntries(put) }]
}

/** A host that sends the old form, and is upgraded on the way. */
async function upgraded(name, curve) {
  const host = await Host.create(name, curve)
  const writer = new Writer(host.did, name)
  const lobby = 'rsvp.atmo.space/lobby'
  await host.genesis('genesis with a record', { [lobby]: writer.record(lobby) })
  for (let n = 0; n < 24; n += 1) {
    const form = n < 16 ? 'old_commit' : 'commit'
    const path = n % 4 === 3 ? writer.numbers.pick(host.paths()) : writer.path()
    const record = n % 8 === 7 ? null : writer.record(path)
    const changes = { [path]: record }
    if (n % 5 === 4) {
      const second = writer.path()
      changes[second] = writer.record(second)
    }
    await host.commit(form === 'commit' ? 'new form' : 'old form', changes, form)
  }
  return save(host)
}

async function save(host, backup = null) {
  const { name, did, frames } = host
  const vectors = { name, did, key: host.keypair.did(), frames, car: new Uint8Array(await host.car()) }
  const data = encode({ ...vectors, backup: backup === null ? null : new Uint8Array(backup) })
  const file = gzipSync(data, { level: 9 })
  assert.equal(file.readUInt32LE(4), 0, 'no time in the file')
  writeFileSync(new URL(`${name}.cbor.gz`, import.meta.url), file)
  console.log(`${name}: ${frames.length} frames, ${host.records.size} records, ${file.length} B`)
}

await shapes('shapes-k256', 'k256', 110)
await shapes('shapes-p256', 'p256', 50)
await account('medium-p256', 'p256', 300, 110)
await account('large-k256', 'k256', 2000, 75)
await upgraded('upgraded-k256', 'k256')
