/** Owns the life of our signing keys: made here, sealed before they are stored, published, promoted when due, forgotten when their last token is dead. */
import { createPrivateKey, createPublicKey, generateKeyPair, type JsonWebKey, type KeyObject, sign as signBytes } from 'node:crypto'
import { promisify } from 'node:util'
import type { JWK, JWTPayload } from 'jose'
import { CurfewError } from '../domain/errors.js'
import { thumbprint } from '../domain/jwk.js'
import { byBroker } from '../domain/revocation.js'
import type { KeyClass, SealedKey, SigningAlg } from '../domain/signing-key.js'
import type { Clock, Context, KeyStore, Signer } from '../ports.js'
import { type DataKeyWrapper, open, seal } from './envelope.js'

export interface RingOptions {
  readonly keys: KeyStore
  readonly clock: Clock
  readonly wrapper: DataKeyWrapper
  /** How long a new key is published before it signs: the longest a verifier may cache our key set. */
  readonly publishAheadSeconds: number
  /** How long a retired key stays published: the longest life of a token of its class. */
  readonly retainSeconds: Readonly<Record<KeyClass, number>>
  /** How often the store is read again for keys of other replicas; 0 never (tests). Default 5 s. */
  readonly refreshMs?: number
  readonly onFault?: (fault: unknown) => void
}

export interface LoadedSigner extends Signer {
  /**
   * Makes the next key of a class and algorithm and publishes it; it signs after `publishAheadSeconds`. While one waits, that one is answered.
   * `now` is for a stolen key: it signs at once, though verifiers may not know it yet.
   */
  rotate(keyClass: KeyClass, alg: SigningAlg, context: Context, options?: { now?: boolean }): Promise<SealedKey>
  /**
   * Its successor signs from now on, and it stays published until its last token is dead. Throws `conflict` while it has no successor that
   * was published long enough, `not_found` for no key of ours.
   */
  retire(kid: string): Promise<SealedKey>
  /** Reads the store again and promotes what is due. Called by a timer, and by whoever learns of a change. */
  refresh(): Promise<void>
  list(): readonly SealedKey[]
  /** Seconds since the oldest signing key became current; null while there is none. */
  ageSeconds(): number | null
  close(): void
}

/** Every class and algorithm that must always be able to sign. Task tokens are read by us alone: one algorithm. */
export const KEY_KINDS: readonly { readonly keyClass: KeyClass; readonly alg: SigningAlg }[] = [
  { keyClass: 'access', alg: 'ES256' },
  { keyClass: 'access', alg: 'RS256' },
  { keyClass: 'task', alg: 'ES256' },
  { keyClass: 'receipt', alg: 'ES256' },
]

/** A replica may sign with the former key until it has read the store again; verifiers keep that key so much longer. Seconds. */
const RETAIN_MARGIN_SECONDS = 60

interface Ready {
  readonly row: SealedKey
  readonly privateKey: KeyObject
}

export async function openRing(options: RingOptions): Promise<LoadedSigner> {
  const { keys, clock, wrapper } = options
  const ready = new Map<string, Ready>()
  let rows: readonly SealedKey[] = []
  const atStart: Context = { requestId: null, actor: byBroker('signer') }
  const retainSeconds = (keyClass: KeyClass) => options.retainSeconds[keyClass] + RETAIN_MARGIN_SECONDS

  async function unseal(row: SealedKey): Promise<Ready> {
    const known = ready.get(row.kid)
    if (known) {
      if (thumbprint(row.publicJwk) !== row.kid) throw broken('kid_mismatch')
      return { row, privateKey: known.privateKey }
    }
    // Another key under a known name is an attack or a damaged store, and never signs (K3).
    if (thumbprint(row.publicJwk) !== row.kid) throw broken('kid_mismatch')
    const der = await open(wrapper, row.sealed, associated(row))
    const privateKey = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
    der.fill(0)
    if (thumbprint(createPublicKey(privateKey).export({ format: 'jwk' }) as JWK) !== row.kid) throw broken('key_mismatch')
    return { row, privateKey }
  }

  async function read(): Promise<void> {
    const found = await keys.list()
    const opened = await Promise.all(found.filter(row => !isForgotten(row, clock.now())).map(unseal))
    ready.clear()
    for (const key of opened) ready.set(key.row.kid, key)
    rows = found
  }

  async function refresh(): Promise<void> {
    await read()
    const now = clock.now()
    const due = rows.filter(row => row.state === 'next' && row.activatesAt <= now)
    for (const row of due) await keys.promote(row.kid, retainSeconds(row.keyClass), atStart)
    if (due.length > 0) await read()
  }

  async function make(keyClass: KeyClass, alg: SigningAlg, state: 'next' | 'current', activatesInSeconds: number, context: Context): Promise<SealedKey> {
    const { privateKey, publicJwk, kid } = await generate(alg)
    const der = privateKey.export({ format: 'der', type: 'pkcs8' })
    const sealed = await seal(wrapper, der, associated({ keyClass, alg, kid }))
    der.fill(0)
    return keys.add({ kid, keyClass, alg, publicJwk, sealed, state, activatesInSeconds }, context)
  }

  await refresh()
  for (const { keyClass, alg } of KEY_KINDS) {
    // `add` lets one of several starting processes win; whoever loses reads the winner's key.
    if (!rows.some(row => row.keyClass === keyClass && row.alg === alg && row.state !== 'retired')) await make(keyClass, alg, 'current', 0, atStart)
  }
  await refresh()

  const current = (keyClass: KeyClass, alg: SigningAlg): Ready => {
    for (const key of ready.values()) if (key.row.state === 'current' && key.row.keyClass === keyClass && key.row.alg === alg) return key
    throw broken('no_signing_key')
  }

  const everyMs = options.refreshMs ?? 5_000
  let busy = false
  const timer =
    everyMs > 0
      ? setInterval(() => {
          if (busy) return
          busy = true
          refresh()
            .catch(fault => options.onFault?.(fault))
            .finally(() => {
              busy = false
            })
        }, everyMs).unref()
      : null

  return {
    async sign(keyClass, typ, claims, alg) {
      const { row, privateKey } = current(keyClass, alg)
      return { token: compactJws(alg, typ, row.kid, claims, privateKey), kid: row.kid }
    },
    jwks(keyClass) {
      const now = clock.now()
      return { keys: rows.filter(row => row.keyClass === keyClass && !isForgotten(row, now)).map(row => published(row)) }
    },
    async rotate(keyClass, alg, context, { now = false } = {}) {
      if (!KEY_KINDS.some(kind => kind.keyClass === keyClass && kind.alg === alg))
        throw new CurfewError('malformed', `there are no ${alg} keys for ${keyClass} tokens`, { reason: 'key_kind_unknown', field: 'alg' })
      await refresh()
      const waiting = rows.find(row => row.keyClass === keyClass && row.alg === alg && row.state === 'next')
      const next = waiting ?? (await make(keyClass, alg, 'next', now ? 0 : options.publishAheadSeconds, context))
      // One that waits has been published for a while already: more verifiers know it than would know a new one.
      if (now) await keys.promote(next.kid, retainSeconds(keyClass), context, { early: true })
      await refresh()
      return rows.find(row => row.kid === next.kid) ?? next
    },
    async retire(kid) {
      // What is due takes its place here, and is the only thing that may: a successor that verifiers do not know would be refused by them.
      await refresh()
      const key = rows.find(row => row.kid === kid)
      if (!key) throw noSuchKey()
      if (key.state === 'retired') return key
      const successor = rows.find(row => row.keyClass === key.keyClass && row.alg === key.alg && row.state === 'next')
      if (key.state === 'next') throw notInUse(key)
      throw successor ? notYet(successor) : noSuccessor(key)
    },
    refresh,
    list: () => rows,
    ageSeconds() {
      const starts = rows.filter(row => row.state === 'current').map(row => row.activatesAt.getTime())
      return starts.length === 0 ? null : Math.max(0, (clock.now().getTime() - Math.min(...starts)) / 1000)
    },
    close: () => {
      if (timer) clearInterval(timer)
    },
  }
}

const noSuchKey = () => new CurfewError('not_found', 'no such signing key', { reason: 'not_found', field: 'kid', next: 'curfew keys list' })
const noSuccessor = ({ keyClass, alg }: SealedKey) =>
  new CurfewError('conflict', `this is the only ${alg} key for ${keyClass} tokens: without it nothing could be signed`, {
    reason: 'no_successor',
    field: 'kid',
    next: 'curfew keys rotate, and this again when its successor has been published for long enough; of a stolen key: --now',
  })
const notYet = ({ activatesAt }: SealedKey) =>
  new CurfewError('conflict', `its successor is published, and signs from ${activatesAt.toISOString()}: until then some verifiers do not know it`, {
    reason: 'successor_too_new',
    field: 'kid',
    next: 'wait until then: it happens by itself; of a stolen key: --now',
  })
const notInUse = ({ activatesAt }: SealedKey) =>
  new CurfewError('conflict', `this key has signed nothing yet: it takes over from ${activatesAt.toISOString()} on`, {
    reason: 'not_in_use',
    field: 'kid',
    next: 'to take it away, say --now --reason T',
  })

const broken = (reason: string) => new CurfewError('unavailable', 'the signing keys cannot be used', { reason })

/** K1: what is sealed only opens as the key it was sealed as. The last member is the version of the format. */
const associated = (key: Pick<SealedKey, 'keyClass' | 'alg' | 'kid'>) => `curfew|${key.keyClass}|${key.alg}|${key.kid}|1`

const isForgotten = (row: SealedKey, now: Date) => row.state === 'retired' && row.retiresAt !== null && row.retiresAt <= now

/** Only what verification needs: a member too many would be a promise that somebody relies on. */
function published(row: SealedKey): JWK {
  const members = row.alg === 'ES256' ? (['kty', 'crv', 'x', 'y'] as const) : (['kty', 'n', 'e'] as const)
  return { ...(Object.fromEntries(members.map(name => [name, row.publicJwk[name]])) as JWK), kid: row.kid, alg: row.alg, use: 'sig' }
}

const generateAsync = promisify(generateKeyPair)

async function generate(alg: SigningAlg): Promise<{ privateKey: KeyObject; publicJwk: JWK; kid: string }> {
  const pair =
    alg === 'ES256' ? await generateAsync('ec', { namedCurve: 'P-256' }) : await generateAsync('rsa', { modulusLength: 2048, publicExponent: 0x10001 })
  const publicJwk = pair.publicKey.export({ format: 'jwk' }) as JsonWebKey as JWK
  return { privateKey: pair.privateKey, publicJwk, kid: thumbprint(publicJwk) }
}

/** RFC 7515 section 7.1. Synchronous on purpose: a hand-over to the thread pool costs more than the signature (performance.md). */
function compactJws(alg: SigningAlg, typ: string, kid: string, claims: JWTPayload, key: KeyObject): string {
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${encode({ alg, typ, kid })}.${encode(claims)}`
  // RFC 7518 section 3.4: R and S side by side, not DER.
  const signature = signBytes('sha256', Buffer.from(input), alg === 'ES256' ? { key, dsaEncoding: 'ieee-p1363' } : key)
  return `${input}.${signature.toString('base64url')}`
}
