/** Owns what every engine whose credentials live at a target must hold (ports.ts, CredentialEngine), whichever target it is. */
import { inspect } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Capability } from '../../src/domain/capability.js'
import type { Credential, Handle, Probe } from '../../src/domain/credential.js'
import { Grant } from '../../src/domain/decision.js'
import { CurfewError } from '../../src/domain/errors.js'
import { namedId, newId } from '../../src/domain/ids.js'
import type { CredentialEngine, Minted } from '../../src/ports.js'
import { capability, permit } from './store/fixtures.js'

export interface EngineHouse {
  readonly engine: CredentialEngine
  /** Parameters that this engine accepts. */
  readonly parameters: Record<string, unknown>
  now(): Date
  /** What the target says to whoever presents these fields. */
  usable(fields: Readonly<Record<string, string>>): Promise<boolean>
  /** The backend stops answering as it should, and is well again. */
  break(): Promise<void>
  heal(): Promise<void>
  close(): Promise<void>
}

/** A grant of `ttl` seconds for a workload that nobody else is. */
export function grantOf(at: Date, over: Partial<Capability> & { ttl?: number } = {}): Grant {
  const { ttl = 300, ...more } = over
  const named = { ...capability(), ...more }
  const identity = `github:repository_id=${Math.floor(performance.now() * 1000)}`
  const attestation = {
    issuer: 'github',
    issuerId: namedId('issuer', 'github'),
    kind: 'oidc' as const,
    profile: 'github',
    identity,
    identityId: namedId('identity', identity),
    owner: null,
    attributes: {},
    strength: 2 as const,
    evidenceAt: at,
    expiresAt: new Date(at.getTime() + 600_000),
    run: null,
    digest: 'digest',
  }
  const task = newId('task')
  return Grant.from(permit({ id: task, attestation }, named.name, at), {
    credential: newId('credential'),
    capability: named,
    params: {},
    engineClass: named.revocation,
    audience: null,
    task,
    ancestors: [],
    actors: [],
    attestation,
    jkt: 'thumbprint',
    askedTtlSeconds: ttl,
    now: at,
    taskDeadline: new Date(at.getTime() + 7_200_000),
    issuerMaxTtlSeconds: 7_200,
  })
}

/** The row as the store would hold it, on its way out. */
export function rowOf(grant: Grant, handle: Handle | null, over: Partial<Credential> = {}): Credential {
  const { terms } = grant
  return {
    id: grant.id,
    task: terms.task,
    ancestors: terms.ancestors,
    identity: terms.attestation.identity,
    issuer: terms.attestation.issuer,
    issuerId: terms.attestation.issuerId,
    capability: terms.capability.name,
    audience: null,
    engine: terms.capability.engine,
    revocationClass: grant.revocation,
    decision: grant.decision.id,
    jkt: terms.jkt,
    kid: null,
    state: 'revoking',
    version: 3,
    issuedAt: terms.now,
    expiresAt: grant.expiresAt,
    deadlineAt: new Date(terms.now.getTime() + 20_000),
    handle,
    revocation: null,
    reason: 'completed',
    revokingAt: terms.now,
    revokedAt: null,
    attempts: 0,
    nextAttemptAt: terms.now,
    failure: null,
    probe: null,
    ...over,
  }
}

export function testEngine(name: string, make: () => Promise<EngineHouse>): void {
  describe(`the engine ${name}`, () => {
    let house: EngineHouse
    const signal = () => AbortSignal.timeout(20_000)
    beforeEach(async () => {
      house = await make()
    })
    afterEach(() => house?.close())

    async function made(): Promise<{ grant: Grant; prepared: Handle; minted: Minted; row: Credential; fields: Readonly<Record<string, string>> }> {
      const { engine, parameters } = house
      const grant = grantOf(house.now(), { engine: engine.kind, parameters })
      const prepared = (await engine.prepare?.(grant, signal())) as Handle
      const minted = await engine.mint(grant, prepared, signal())
      return { grant, prepared, minted, row: rowOf(grant, { ...prepared, ...minted.handle }), fields: minted.secret.reveal() }
    }
    const dead = async (row: Credential) => {
      await house.engine.destroy(row, signal())
      await expect.poll(() => house.engine.probe(row, signal()), { timeout: 5_000, interval: 30 }).toMatchObject({ outcome: 'dead' })
    }

    it('is honest about how its credentials die', () => {
      expect(house.engine).toMatchObject({ revocation: 'backend', local: false, prepare: expect.any(Function) })
    })

    it('accepts its parameters and names the one that it does not know', () => {
      house.engine.check(house.parameters)
      expect(() => house.engine.check({ ...house.parameters, nonsense: 1 })).toThrow(
        expect.objectContaining({ code: 'malformed', facts: expect.objectContaining({ field: 'parameters.nonsense' }) }),
      )
    })

    it('makes what works, keeps it, ends it, and is believed dead only then', async () => {
      const { row, fields, grant } = await made()
      expect(await house.usable(fields)).toBe(true)
      expect(fields.PGAPPNAME).toBe(`curfew/${grant.id}`)
      expect(fields.PGUSER).toContain(grant.id.replace('_', '-'))
      await house.engine.extend?.({ ...row, state: 'active' }, signal())
      expect(await house.engine.probe(row, signal())).toMatchObject({ outcome: 'alive', detail: expect.any(String) })
      expect(await house.usable(fields)).toBe(true)
      await dead(row)
      expect(await house.usable(fields)).toBe(false)
    })

    it('destroys twice without complaint', async () => {
      const { row } = await made()
      await dead(row)
      await dead(row)
    })

    it('has all that mint made within reach of the handle that prepare gave', async () => {
      const { row, prepared, fields } = await made()
      await house.engine.destroy({ ...row, handle: prepared }, signal())
      await expect.poll(() => house.usable(fields), { timeout: 5_000, interval: 30 }).toBe(false)
      await dead(row)
    })

    it('holds a row without a handle dead at once', async () => {
      const row = rowOf(grantOf(house.now(), { engine: house.engine.kind, parameters: house.parameters }), null)
      await house.engine.destroy(row, signal())
      expect(await house.engine.probe(row, signal())).toMatchObject({ outcome: 'dead' })
    })

    it('never calls alive what stopped between prepare and mint, once it is destroyed', async () => {
      const grant = grantOf(house.now(), { engine: house.engine.kind, parameters: house.parameters })
      const prepared = (await house.engine.prepare?.(grant, signal())) as Handle
      const row = rowOf(grant, prepared)
      await house.engine.destroy(row, signal())
      expect(['dead', 'waiting']).toContain((await house.engine.probe(row, signal())).outcome)
    })

    it('ends one and leaves its neighbour', async () => {
      const [mine, theirs] = [await made(), await made()]
      await dead(mine.row)
      expect(await house.usable(theirs.fields)).toBe(true)
      expect(await house.engine.probe(theirs.row, signal())).toMatchObject({ outcome: 'alive' })
    })

    it('with a broken backend neither destroys nor says dead, and tells nothing; then all goes well', async () => {
      const { row, fields, minted } = await made()
      await house.break()
      const failure = await house.engine.destroy(row, signal()).then(
        () => null,
        error => error as Error,
      )
      const probe = await house.engine.probe(row, signal()).then(
        (answer: Probe) => answer.outcome,
        () => 'no answer',
      )
      await house.heal()
      expect(failure).toBeInstanceOf(CurfewError)
      expect(probe).not.toBe('dead')
      const told = `${failure?.message} ${JSON.stringify(failure)}`
      for (const word of [fields.PGPASSWORD, fields.PGUSER, ...Object.values(minted.handle)]) expect(told).not.toContain(String(word))
      await dead(row)
      expect(await house.usable(fields)).toBe(false)
    }, 40_000)

    it('puts no secret into a handle, and prints none', async () => {
      const { row, fields, minted } = await made()
      expect(JSON.stringify(row.handle)).not.toContain(fields.PGPASSWORD)
      expect(inspect(minted, { depth: 9 }) + JSON.stringify(minted)).not.toContain(fields.PGPASSWORD)
    })
  })
}
