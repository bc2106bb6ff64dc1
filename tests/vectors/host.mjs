// One repo as its PDS holds it, and the frames that the PDS puts on the firehose for it.
//
// The tree, the blocks that prove it and the message come from the reference implementation
// itself (@atproto/repo, and @atproto/pds' own `formatSeqCommit`). What the PDS does between the
// two needs its database there, and is done here from a map of the repo's records: `prev` of each
// op, `prevData`, and blocks of records that were in the repo before.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'

const require = createRequire(new URL('../localnet/package.json', import.meta.url))
const { P256Keypair, Secp256k1Keypair } = require('@atproto/crypto')
const { decode } = require('@atproto/lex-cbor')
const repo = require('@atproto/repo')
const { MessageFrame } = require('@atproto/xrpc-server')
const { formatSeqCommit, formatSeqSyncEvt } = await import(
  new URL('../localnet/node_modules/@atproto/pds/dist/sequencer/events.js', import.meta.url)
)

const START = Date.parse('2026-01-31T12:00:00.000Z')
const STEP = 7_000 // ms between two events

// The reference takes revisions from the clock and from a random clock id. Both are ours here, so
// that another run gives the same bytes; signatures are deterministic already (RFC 6979).
let clock = START
Date.now = () => clock
Math.random = () => 0.5

export const now = () => new Date(clock).toISOString()
export const sha256 = (data) => createHash('sha256').update(data).digest()

/** The layer of a key: the leading zero bits of its hash, in pairs. */
export function height(path) {
  const zeros = Math.clz32(sha256(path).readUInt32BE(0))
  assert(zeros < 32, 'no key here is that high')
  return zeros >> 1
}

let seq = 1000

export class Host {
  records = new Map() // path to CID
  frames = []

  static async create(name, curve) {
    const host = new Host()
    host.name = name
    host.did = `did:plc:${base32(sha256(`rescind vectors, account ${name}`)).slice(0, 24)}`
    const secret = sha256(`rescind vectors, key ${name}`)
    const Keypair = curve === 'p256' ? P256Keypair : Secp256k1Keypair
    host.keypair = await Keypair.import(new Uint8Array(secret))
    host.storage = new repo.MemoryBlockstore()
    return host
  }

  paths() {
    return [...this.records.keys()].sort()
  }

  /** The first commit of the repo, with these records ({ path: record }). */
  async genesis(note, writes = {}) {
    const toWrite = Object.entries(writes).map(([path, record]) => write('create', path, record))
    tick()
    const commit = await repo.Repo.formatInitCommit(this.storage, this.did, this.keypair, toWrite)
    const ops = await Promise.all(toWrite.map((w) => this.#op(w)))
    await this.#emit('commit', note, { ...commit, ops, prevData: null })
  }

  /**
   * A commit that sets these paths to records, or deletes them (null), in this order. As the old
   * PDS sent it, if `form` is `old_commit`: what is new, and nothing of what was before.
   */
  async commit(note, changes, form = 'commit') {
    const toWrite = Object.entries(changes).map(([path, record]) =>
      write(record === null ? 'delete' : this.records.has(path) ? 'update' : 'create', path, record),
    )
    tick()
    const commit = await this.repo.formatCommit(toWrite, this.keypair)
    const ops = await Promise.all(toWrite.map((w) => this.#op(w)))
    const missing = commit.relevantBlocks.getMany(
      ops.map((op) => op.cid).filter((cid) => cid !== null),
    ).missing
    commit.relevantBlocks.addMap((await this.storage.getBlocks(missing)).blocks)
    if (form === 'old_commit') {
      for (const op of ops) delete op.prev
      await this.#emit(form, note, { ...commit, relevantBlocks: commit.newBlocks, ops })
    } else {
      await this.#emit(form, note, { ...commit, ops, prevData: this.repo.commit.data })
    }
  }

  async sync(note) {
    const { cid } = this.repo
    const { blocks } = await this.storage.getBlocks([cid])
    const sequenced = await formatSeqSyncEvt(this.did, { cid, rev: this.repo.commit.rev, blocks })
    this.#frame('sync', note, '#sync', sequenced)
  }

  /** The repo as `com.atproto.sync.getRepo` gives it. */
  async car() {
    const chunks = []
    for await (const chunk of repo.getFullRepo(this.storage, this.repo.cid)) chunks.push(chunk)
    const car = Buffer.concat(chunks)
    const { creates } = await repo.verifyRepoCar(car, this.did, this.keypair.did())
    assert.equal(creates.length, this.records.size)
    return car
  }

  async #op({ action, collection, rkey, record }) {
    const path = `${collection}/${rkey}`
    const prev = this.records.get(path)
    assert.equal(prev === undefined, action === 'create')
    const cid = action === 'delete' ? null : await repo.cidForRecord(record)
    return prev === undefined ? { action, path, cid } : { action, path, cid, prev }
  }

  async #emit(kind, note, commit) {
    this.#frame(kind, note, '#commit', await formatSeqCommit(this.did, commit))
    for (const op of commit.ops) {
      if (op.cid === null) this.records.delete(op.path)
      else this.records.set(op.path, op.cid)
    }
    for (const cid of this.records.values()) commit.removedCids.delete(cid)
    await this.storage.applyCommit(commit)
    this.repo = await repo.Repo.load(this.storage, commit.cid)
    await this.#check()
  }

  #frame(kind, note, type, sequenced) {
    const body = { seq: (seq += 1), time: now(), ...decode(sequenced.event) }
    const frame = new MessageFrame(body, { type }).toBytes()
    this.frames.push({ kind, note, frame: new Uint8Array(frame) })
  }

  // The same records, put in one by one, must lead to the same tree: a vector of a tree that only
  // its own history leads to would teach the wrong thing.
  async #check() {
    if (this.records.size > 60) return
    let tree = await repo.MST.create(this.storage)
    for (const path of this.paths()) tree = await tree.add(path, this.records.get(path))
    const data = await tree.getPointer()
    assert(data.equals(this.repo.commit.data), `${this.name}: not the canonical tree`)
  }
}

function tick() {
  clock += STEP
}

function write(action, path, record) {
  const { collection, rkey } = repo.parseDataKey(path)
  return action === 'delete' ? { action, collection, rkey } : { action, collection, rkey, record }
}

function base32(bytes) {
  const digits = 'abcdefghijklmnopqrstuvwxyz234567'
  return Array.from(bytes, (byte) => digits[byte & 31]).join('')
}
