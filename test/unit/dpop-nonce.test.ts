/** Nonces of DPoP (RFC 9449 sections 8 and 9; standards.md 1.4, P53, T43): of a time, of a server, and the same at every replica. */
import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { dpopNonces, NONCE_SECONDS } from '../../src/domain/dpop-nonce.js'
import { Secret } from '../../src/domain/secret.js'
import { nonceKey } from '../../src/signers/nonce-key.js'
import { masterKeyWrapper } from '../../src/signers/sealed.js'

const KEY = randomBytes(32)
const START = Math.floor(1_790_000_000 / NONCE_SECONDS) * NONCE_SECONDS
const at = (seconds: number) => new Date((START + seconds) * 1000)

describe('a nonce', () => {
  const { current, accepts } = dpopNonces(KEY)
  const nonce = current('authorization_server', at(0))

  test('P53 is accepted in its own bucket and the next, to the millisecond, and never after or before', () => {
    const seen = [-0.001, 0, NONCE_SECONDS - 0.001, NONCE_SECONDS, 2 * NONCE_SECONDS - 0.001, 2 * NONCE_SECONDS].map(s =>
      accepts(nonce, 'authorization_server', at(s)),
    )
    expect(seen).toEqual([false, true, true, true, true, false])
  })
  test('says nothing of its time, and is another in every bucket', () => {
    const made = Array.from({ length: 100 }, (_, i) => current('authorization_server', at(i * NONCE_SECONDS)))
    expect(new Set(made).size).toBe(100)
    for (const each of made) expect(each).toMatch(/^[A-Za-z0-9_-]{43}$/)
  })
  test('T43 of the other server, of another deployment, altered, cut, empty: none', () => {
    expect(accepts(nonce, 'resource_server', at(0))).toBe(false)
    expect(dpopNonces(randomBytes(32)).accepts(nonce, 'authorization_server', at(0))).toBe(false)
    for (const other of ['', nonce.slice(1), `${nonce}=`, `${nonce} `, nonce.toLowerCase(), 'é'.repeat(43)])
      expect(accepts(other, 'authorization_server', at(0))).toBe(false)
  })
})

describe('its key', () => {
  const master = Secret.token(randomBytes(32).toString('base64'))
  test('is the same at every replica of a deployment, whenever it starts', async () => {
    const [one, two] = await Promise.all([nonceKey(masterKeyWrapper(master)), nonceKey(masterKeyWrapper(master))])
    expect(one).toHaveLength(32)
    expect(two).toEqual(one)
    const first = dpopNonces(one).current('resource_server', at(0))
    expect(dpopNonces(two).accepts(first, 'resource_server', at(1))).toBe(true)
  })
  test('is of this deployment only, and is not the key that seals digests', async () => {
    const wrapper = masterKeyWrapper(master)
    expect(await nonceKey(wrapper)).not.toEqual(await wrapper.digestKey())
    expect(await nonceKey(masterKeyWrapper(Secret.token(randomBytes(32).toString('base64'))))).not.toEqual(await nonceKey(wrapper))
  })
})
