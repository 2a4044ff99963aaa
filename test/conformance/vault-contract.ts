/** Owns what our code relies on from Vault (real-parts.md 2), one call after another, over the real server and over the fake that stands for it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

export interface ContractHouse {
  readonly address: string
  /** An administrator's token. */
  readonly root: string
  /** A fresh login of one of the three identities. */
  login(role: 'issuer' | 'revoker' | 'reconciler'): Promise<string>
  /** Whether the target database has this user. */
  user(name: string): Promise<boolean>
  /** Takes the target away, or gives it back. */
  target(up: boolean): Promise<void>
  close(): Promise<void>
}

interface Answer {
  readonly status: number
  // biome-ignore lint/suspicious/noExplicitAny: an answer of another program, looked into by expectations.
  readonly body: any
}

const POLICY = 'curfew-cap-orders-ro'
const CREDS = 'database/creds/orders-ro'
let count = 0

export function testVaultContract(name: string, make: () => Promise<ContractHouse>): void {
  describe(`what we rely on of ${name}`, () => {
    let house: ContractHouse
    let issuer: string
    let revoker: string
    let reconciler: string

    beforeAll(async () => {
      house = await make()
      ;[issuer, revoker, reconciler] = await Promise.all([house.login('issuer'), house.login('revoker'), house.login('reconciler')])
    })
    afterAll(() => house?.close())

    async function call(token: string, method: string, path: string, body?: object): Promise<Answer> {
      const answer = await fetch(`${house.address}/v1/${path}`, {
        method,
        headers: { 'X-Vault-Token': token },
        ...(body ? { body: JSON.stringify(body) } : {}),
      })
      const text = await answer.text()
      return { status: answer.status, body: text ? JSON.parse(text) : null }
    }
    const post = (token: string, path: string, body: object) => call(token, 'POST', path, body)
    const ask = (over: object = {}) => {
      const id = `crd_${String(++count).padStart(26, '0')}`
      const meta = { credential_id: id, curfew: '1' }
      const display = id.replace('_', '-')
      return { ttl: '90s', explicit_max_ttl: '930s', renewable: true, policies: [POLICY], no_default_policy: true, display_name: display, meta, ...over }
    }
    const token = async (over: object = {}) => {
      const made = await post(issuer, 'auth/token/create/curfew', ask(over))
      expect(made.status).toBe(200)
      return made.body.auth as { client_token: string; accessor: string; lease_duration: number }
    }
    const lease = async (over: object = {}) => {
      const auth = await token(over)
      const read = await call(auth.client_token, 'GET', CREDS)
      expect(read.status).toBe(200)
      return { ...auth, id: read.body.lease_id as string, user: read.body.data.username as string, seconds: read.body.lease_duration as number }
    }
    const lookup = (id: string) => post(revoker, 'sys/leases/lookup', { lease_id: id })
    const seen = (accessor: string) => post(revoker, 'auth/token/lookup-accessor', { accessor })
    const revokeLease = (id: string) => post(revoker, 'sys/leases/revoke', { lease_id: id, sync: true })
    const revokeAccessor = (accessor: string) => post(revoker, 'auth/token/revoke-accessor', { accessor })
    const soon = (what: () => Promise<boolean>, ms = 5_000) => expect.poll(what, { timeout: ms, interval: 20 }).toBe(true)

    it('a token made under our role is an orphan with one policy, our marks, and the life that was asked', async () => {
      const asked = ask()
      const made = await post(issuer, 'auth/token/create/curfew', asked)
      expect(made).toMatchObject({
        status: 200,
        body: { auth: { policies: [POLICY], metadata: asked.meta, lease_duration: 90, renewable: true, orphan: true } },
      })
      expect(made.body.errors).toBeUndefined()
    })

    it('the issuer makes tokens under that role only, and only with policies of its glob', async () => {
      expect((await post(issuer, 'auth/token/create', ask())).status).toBe(403)
      const wider = await post(issuer, 'auth/token/create/curfew', ask({ policies: ['curfew-revoker'] }))
      expect(wider.status).toBe(400)
      expect(wider.body.auth).toBeUndefined()
    })

    it('the token reads its one path and nothing else, not even itself', async () => {
      const { client_token: own, accessor } = await token()
      const read = await call(own, 'GET', CREDS)
      expect(read.status).toBe(200)
      expect(read.body).toMatchObject({
        lease_id: expect.stringMatching(/^database\/creds\/orders-ro\/.+/),
        lease_duration: expect.any(Number),
        renewable: true,
      })
      expect((await call(own, 'GET', 'auth/token/lookup-self')).status).toBe(403)
      expect((await call(own, 'GET', 'database/creds/orders-rw')).status).toBe(403)
      expect((await post(own, 'sys/leases/lookup', { lease_id: read.body.lease_id })).status).toBe(403)
      expect((await post(own, 'auth/token/lookup-accessor', { accessor })).status).toBe(403)
    })

    it('the user at the target is named after the credential', async () => {
      const asked = ask()
      const { body } = await post(issuer, 'auth/token/create/curfew', asked)
      const read = await call(body.auth.client_token, 'GET', CREDS)
      expect(read.body.data.username).toBe(`curfew_${asked.display_name}`)
      expect(await house.user(read.body.data.username)).toBe(true)
      expect((await seen(body.auth.accessor)).body.data).toMatchObject({ display_name: `token-${asked.display_name}`, meta: asked.meta })
    })

    it('renewing by accessor lifts the life and keeps the marks', async () => {
      const { accessor } = await token()
      expect((await post(issuer, 'auth/token/renew-accessor', { accessor, increment: '600s' })).status).toBe(200)
      const after = (await seen(accessor)).body.data
      expect(after.ttl).toBeGreaterThan(590)
      expect(after.meta.curfew).toBe('1')
    })

    // Seen on 1.21.4: under a token role a renewal is capped by the role's maximum, while the token's own is shown and not enforced. Without
    // one on the role, whoever stole the issuer could keep what it made alive for as long as the server allows.
    it('no renewal outlives the maximum of the token role', async () => {
      const { accessor } = await token({ explicit_max_ttl: '600s' })
      expect((await post(issuer, 'auth/token/renew-accessor', { accessor, increment: '2000000s' })).status).toBe(200)
      expect((await seen(accessor)).body.data.ttl).toBeLessThanOrEqual(43_230)
    })

    it('renewing a dead accessor is refused, never taken for done', async () => {
      const { accessor } = await token()
      await revokeAccessor(accessor)
      expect((await post(issuer, 'auth/token/renew-accessor', { accessor, increment: '300s' })).status).toBeGreaterThanOrEqual(400)
    })

    it('a live lease is looked up with the time of its issue', async () => {
      const { id } = await lease()
      const { status, body } = await lookup(id)
      expect(status).toBe(200)
      expect(Math.abs(Date.parse(body.data.issue_time) - Date.now())).toBeLessThan(60_000)
    })

    it('a sync revocation ends lease and user before it answers, and again, and for what never was', async () => {
      const { id, user } = await lease()
      expect((await revokeLease(id)).status).toBe(204)
      expect(await house.user(user)).toBe(false)
      expect((await revokeLease(id)).status).toBe(204)
      expect((await revokeLease(`${CREDS}/never-was`)).status).toBe(204)
    })

    it('the two texts that mean absent, and no other', async () => {
      const { id, accessor } = await lease()
      await revokeLease(id)
      const gone = await lookup(id)
      expect(gone.status).toBe(400)
      expect(gone.body.errors.join()).toContain('invalid lease')
      await revokeAccessor(accessor)
      const dead = await seen(accessor)
      expect(dead.status).toBe(400)
      expect(dead.body.errors.join()).toContain('invalid accessor')
    })

    it('revoking a dead accessor succeeds with a warning', async () => {
      const { accessor } = await token()
      expect((await revokeAccessor(accessor)).status).toBe(204)
      const again = await revokeAccessor(accessor)
      expect(again.status).toBe(200)
      expect(again.body.warnings.join()).toContain('No token found with this accessor')
    })

    it('revoking the accessor kills the token at once and takes the lease along soon', async () => {
      const { accessor, id, user, client_token: own } = await lease()
      await revokeAccessor(accessor)
      expect((await call(own, 'GET', CREDS)).status).toBe(403)
      await soon(async () => !(await house.user(user)) && (await lookup(id)).status === 400)
    })

    it('a token that nobody renews dies on time and takes its user along: the dead man’s switch', async () => {
      const { user, client_token: own } = await lease({ ttl: '2s' })
      expect(await house.user(user)).toBe(true)
      await soon(async () => !(await house.user(user)), 8_000)
      expect((await call(own, 'GET', CREDS)).status).toBe(403)
    }, 15_000)

    it('with the target down a sync revocation is a 400 that is no absence, and the lease waits for its retry', async () => {
      const { accessor, id, user } = await lease()
      await house.target(false)
      try {
        const refused = await revokeLease(id)
        expect(refused.status).toBe(400)
        expect(refused.body.errors.join()).not.toContain('invalid lease')
        expect((await revokeAccessor(accessor)).status).toBe(204)
        await soon(async () => (await lookup(id)).body.data?.ttl === 0)
        expect((await lookup(id)).body.data.renewable).toBe(false)
      } finally {
        await house.target(true)
      }
      await soon(async () => (await revokeLease(id)).status === 204, 10_000)
      expect(await house.user(user)).toBe(false)
    }, 30_000)

    it('with the target down no secret is made, and the answer is an error', async () => {
      const { client_token: own } = await token()
      await house.target(false)
      try {
        const read = await call(own, 'GET', CREDS)
        expect(read.status).toBeGreaterThanOrEqual(400)
        expect(read.body.data).toBeUndefined()
      } finally {
        await house.target(true)
      }
    }, 30_000)

    it('only the reconciler lists leases and accessors', async () => {
      const { accessor, id } = await lease()
      const listing = `sys/leases/lookup/${CREDS}`
      const leases = await call(reconciler, 'GET', `${listing}?list=1`)
      expect(leases.body.data.keys).toContain(id.split('/').at(-1))
      const accessors = await call(reconciler, 'GET', 'auth/token/accessors?list=1')
      expect(accessors.body.data.keys).toContain(accessor)
      for (const other of [issuer, revoker]) {
        expect((await call(other, 'GET', `${listing}?list=1`)).status).toBe(403)
        expect((await call(other, 'GET', 'auth/token/accessors?list=1')).status).toBe(403)
      }
    })

    it('an empty listing is a 404 that says no errors', async () => {
      expect(await call(reconciler, 'GET', 'sys/leases/lookup/database/creds/nobody?list=1')).toMatchObject({ status: 404, body: { errors: [] } })
    })

    it('a token that is not there is a 403 whatever it asks', async () => {
      expect((await call('hvs.nobody', 'GET', CREDS)).status).toBe(403)
      expect((await post('hvs.nobody', 'sys/leases/lookup', { lease_id: `${CREDS}/x` })).status).toBe(403)
    })

    it('a login with a wrong secret is refused, and a good one says how long it lives', async () => {
      const wrong = await post('', 'auth/approle/login', { role_id: 'curfew-issuer', secret_id: 'wrong' })
      expect(wrong.status).toBe(400)
      expect((await post(await house.login('issuer'), 'auth/token/create/curfew', ask())).status).toBe(200)
    })

    /** What an attacker who holds one of our identities would try first. Vault answers 403 before it looks whether a thing exists. */
    const BEYOND: readonly [string, string][] = [
      ...['database/creds/orders-ro', 'database/config/orders', 'database/roles/orders-ro', 'secret/data/x', 'cubbyhole/x', 'identity/oidc/token/x'].map(
        p => ['GET', p] as [string, string],
      ),
      ...['sys/policies/acl/root', 'sys/policies/acl/curfew-issuer', 'sys/mounts', 'sys/auth', 'sys/audit', 'sys/config/state/sanitized', 'sys/raw/core'].map(
        p => ['GET', p] as [string, string],
      ),
      ...['sys/plugins/catalog', 'sys/quotas/config', 'sys/storage/raft/snapshot', 'auth/token/roles/curfew', 'auth/token/lookup-self', 'transit/keys/x'].map(
        p => ['GET', p] as [string, string],
      ),
      ...['auth/approle/role/curfew-issuer', 'auth/approle/role/curfew-revoker/role-id', 'sys/internal/counters/activity'].map(
        p => ['GET', p] as [string, string],
      ),
      ...['auth/token/create', 'auth/token/create-orphan', 'auth/token/create/other', 'auth/token/renew', 'auth/token/renew-self', 'auth/token/lookup'].map(
        p => ['POST', p] as [string, string],
      ),
      ...['auth/token/revoke', 'auth/token/revoke-self', 'auth/token/revoke-orphan', 'auth/token/roles/curfew', 'auth/token/tidy', 'sys/leases/renew'].map(
        p => ['POST', p] as [string, string],
      ),
      ...['sys/leases/revoke-force/database', 'sys/leases/revoke-prefix/database', 'sys/leases/tidy', 'sys/revoke', 'sys/revoke-prefix/x', 'sys/renew'].map(
        p => ['POST', p] as [string, string],
      ),
      ...['sys/revoke-force/x', 'sys/seal', 'sys/rotate', 'sys/capabilities', 'sys/tools/hash', 'sys/wrapping/wrap'].map(p => ['POST', p] as [string, string]),
      ...['sys/policies/acl/mine', 'sys/mounts/mine', 'sys/auth/mine', 'sys/audit/mine', 'sys/plugins/catalog/database/mine', 'sys/remount'].map(
        p => ['POST', p] as [string, string],
      ),
      ...['database/config/mine', 'database/roles/mine', 'database/rotate-root/orders', 'database/reset/orders', 'database/static-roles/mine'].map(
        p => ['POST', p] as [string, string],
      ),
      ...['auth/approle/role/mine', 'auth/approle/role/curfew-revoker/secret-id', 'identity/entity', 'identity/group', 'transit/sign/x', 'secret/data/x'].map(
        p => ['POST', p] as [string, string],
      ),
      ['GET', 'sys/leases/lookup?list=1'],
      ['GET', 'sys/leases/lookup/auth?list=1'],
      ['GET', 'sys/policies/acl?list=1'],
      ['GET', 'auth/token/roles?list=1'],
      ['DELETE', 'auth/token/roles/curfew'],
      ['DELETE', 'database/roles/orders-ro'],
      ['DELETE', 'sys/policies/acl/curfew-issuer'],
    ]

    it(`K4 each identity is refused on ${BEYOND.length} paths that are not its own`, async () => {
      expect(BEYOND.length).toBeGreaterThanOrEqual(60)
      for (const [role, held] of Object.entries({ issuer, revoker, reconciler })) {
        const open: string[] = []
        for (const [method, path] of BEYOND) {
          const { status } = await call(held, method, path, method === 'POST' ? {} : undefined)
          if (status !== 403) open.push(`${role}: ${method} ${path} answered ${status}`)
        }
        expect(open).toEqual([])
      }
    }, 60_000)

    it('K4 what one identity may do, the others may not', async () => {
      const { accessor, id } = await lease()
      expect((await post(revoker, 'auth/token/create/curfew', ask())).status).toBe(403)
      expect((await post(reconciler, 'auth/token/create/curfew', ask())).status).toBe(403)
      expect((await post(revoker, 'auth/token/renew-accessor', { accessor, increment: '9s' })).status).toBe(403)
      expect((await post(reconciler, 'auth/token/renew-accessor', { accessor, increment: '9s' })).status).toBe(403)
      expect((await post(issuer, 'sys/leases/revoke', { lease_id: id, sync: true })).status).toBe(403)
      expect((await post(issuer, 'sys/leases/lookup', { lease_id: id })).status).toBe(403)
      expect((await post(issuer, 'auth/token/lookup-accessor', { accessor })).status).toBe(403)
      expect((await lookup(id)).status).toBe(200)
    })
  })
}
