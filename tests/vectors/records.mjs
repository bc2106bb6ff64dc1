// Records of realistic size, and paths for them, from a seeded generator of numbers.

import { createRequire } from 'node:module'
import { height, now, sha256 } from './host.mjs'

const require = createRequire(new URL('../localnet/package.json', import.meta.url))
const { TID } = require('@atproto/common-web')

const SPACE = 'rsvp.atmo.space'
const INVITE = 'rsvp.atmo.space.invite'
const VERIFICATION = 'app.bsky.graph.verification'
const POST = 'app.bsky.feed.post'
const LIKE = 'app.bsky.feed.like'
const FOLLOW = 'app.bsky.graph.follow'
export const COLLECTIONS = [LIKE, LIKE, POST, POST, FOLLOW, VERIFICATION, INVITE, SPACE]

const WORDS =
  'the garden opens at seven and everybody who was there last week says that it will rain ' +
  'again so bring a coat or a friend we still need two people for the big table by the window'
const SUBJECTS = 16 // accounts and posts that likes and follows speak of

/** A mulberry32: numbers below `limit`, the same for the same seed. */
export class Numbers {
  constructor(seed) {
    this.state = sha256(seed).readUInt32BE(0)
  }

  below(limit) {
    this.state = (this.state + 0x6d2b79f5) | 0
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % limit
  }

  pick(list) {
    return list[this.below(list.length)]
  }

  /** Some of a list, each at most once, in any order. */
  some(list, count) {
    const left = [...list]
    const taken = []
    while (taken.length < count && left.length > 0) {
      taken.push(...left.splice(this.below(left.length), 1))
    }
    return taken
  }
}

export class Writer {
  #micros = Date.parse('2025-06-01T00:00:00.000Z') * 1000

  constructor(did, seed) {
    this.did = did
    this.numbers = new Numbers(seed)
    this.count = 0
  }

  /** A path that nobody had before, as clients choose them: mostly the TID of a moment. */
  path(collection = this.numbers.pick(COLLECTIONS)) {
    this.#micros += 1 + this.numbers.below(3_600_000_000)
    const rkey = TID.fromTime(this.#micros, this.numbers.below(32)).toString()
    return `${collection}/${collection === SPACE ? `room-${rkey.slice(5)}` : rkey}`
  }

  /** A path in this layer of the tree. */
  pathAt(layer, collection) {
    for (;;) {
      const path = this.path(collection)
      if (height(path) === layer) return path
    }
  }

  /** A record for this path, another one at each call. */
  record(path) {
    this.count += 1
    const $type = path.slice(0, path.indexOf('/'))
    return { $type, ...this.#fields($type), createdAt: now() }
  }

  #fields(collection) {
    const number = this.numbers.below(SUBJECTS)
    const subject = `did:plc:${sha256(`subject ${number}`).toString('hex').slice(0, 24)}`
    const text = `${this.count}: ${this.#text()}`
    switch (collection) {
      case SPACE:
        return { name: `Room ${this.count}`, description: text }
      case INVITE:
        return {
          space: `at://${this.did}/${SPACE}/lobby`,
          tokenHash: sha256(`token ${this.did} ${this.count}`).toString('hex'),
          kind: this.numbers.pick(['join', 'read', 'read-join']),
          maxUses: 1 + number,
          note: text.slice(0, 60),
        }
      case VERIFICATION:
        return { subject, handle: `friend-${this.count}.test`, displayName: `Friend ${number}` }
      case FOLLOW:
        return { subject }
      case LIKE: {
        const cid = 'bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq'
        return { subject: { uri: `at://${subject}/${POST}/3jzfcijpj2z2a`, cid } }
      }
      default:
        return { text, langs: ['en'] }
    }
  }

  #text() {
    const words = WORDS.split(' ')
    const from = this.numbers.below(words.length)
    const rotated = [...words.slice(from), ...words.slice(0, from)]
    return rotated.slice(0, 6 + this.numbers.below(words.length - 6)).join(' ')
  }
}
