/** Owns `curfew/engine/testing`: what every engine whose credentials live at a target must hold (docs/engines.md), for any test runner. */
import assert from 'node:assert/strict'
import { inspect } from 'node:util'
import type { RevocationClass } from '../domain/capability.js'
import type { Credential, Handle, Probe } from '../domain/credential.js'
import { within } from '../domain/deadline.js'
import type { AskParams, Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { CredentialEngine, Minted } from '../ports.js'
import { type GrantOptions, grantOf, rowOf } from './fixtures.js'

type Fields = Readonly<Record<string, string>>

/** One engine over one target, with hands on both. */
export interface EngineHouse {
  readonly engine: CredentialEngine
  /** Parameters that this engine accepts. */
  readonly parameters: Readonly<Record<string, unknown>>
  /** What a caller must add when it asks. */
  readonly params?: AskParams
  now(): Date
  /** Moves `now`: only for engines whose credentials end by their own end alone. */
  advance?(seconds: number): void
  /** What the target says to whoever presents these fields. */
  usable(fields: Fields): Promise<boolean>
  /** What the target itself calls this credential: it must hold the credential's id, `_` written as `-` where it must. */
  attribution(fields: Fields): string
  /** Those of the values that nobody but the holder may learn. */
  secrets(fields: Fields): readonly string[]
  /** The backend stops answering as it should, and is well again. */
  break(): Promise<void>
  heal(): Promise<void>
  close(): Promise<void>
}

export interface EngineCase {
  readonly name: string
  /** Why this class of engine need not hold it; null when it must. */
  readonly skipped: string | null
  run(): Promise<void>
}

interface Made {
  readonly grant: Grant
  readonly prepared: Handle
  readonly minted: Minted
  readonly row: Credential
  readonly fields: Fields
}

const CALL_MS = 20_000
const DEAD_MS = 5_000

const signal = () => within(CALL_MS)

/** @param make a fresh house for each case; it is closed after it. */
export function engineCases(revocation: Exclude<RevocationClass, 'instant'>, make: () => Promise<EngineHouse>): readonly EngineCase[] {
  const inHouse = (name: string, act: (house: EngineHouse) => Promise<void>, skipped: string | null = null): EngineCase => ({
    name,
    skipped,
    async run() {
      const house = await make()
      try {
        await act(house)
      } finally {
        await house.close()
      }
    },
  })
  const onlyEarly = revocation === 'expiry-only' ? 'nobody can end such a credential early' : null

  return [
    inHouse('is honest about how its credentials die', async ({ engine }) => {
      assert.equal(engine.revocation, revocation)
      assert.equal(engine.local, false, 'what is made by computation alone is no matter of this contract')
      assert.ok(engine.prepare, 'without `prepare` nothing leads to what a crash left')
    }),

    inHouse('accepts its parameters and names the one that it does not know', async ({ engine, parameters }) => {
      engine.check(parameters)
      const error = caught(() => engine.check({ ...parameters, nonsense: 1 }))
      assert.ok(error instanceof CurfewError && error.code === 'malformed', 'an unknown parameter is malformed')
      assert.equal(error.facts.field, 'parameters.nonsense')
    }),

    inHouse('takes what it says that callers may add, and no more', async ({ engine, parameters, params = {} }) => {
      const takes = engine.takes?.(parameters) ?? {}
      for (const name of Object.keys(params)) assert.ok(takes[name], `${name} is given here and not among what it takes`)
      for (const [name, need] of Object.entries(takes)) if (need === 'required') assert.ok(params[name] !== undefined, `${name} is required`)
      await engine.ask?.(params, parameters)
      for (const name of Object.keys(params)) {
        const error = await Promise.resolve()
          .then(() => engine.ask?.({ ...params, [name]: 'no such thing as was asked for' }, parameters))
          .catch((cause: unknown) => cause)
        assert.ok(error instanceof CurfewError && error.code === 'malformed', `a wrong ${name} is malformed`)
        assert.equal(error.facts.field, `params.${name}`)
      }
    }),

    inHouse('makes what works, keeps it, ends it, and is believed dead only then', async house => {
      const { engine } = house
      const { row, fields, grant } = await made(house)
      assert.equal(await house.usable(fields), true)
      const [id, dashes] = [grant.id, grant.id.replaceAll('_', '-')]
      const attribution = house.attribution(fields)
      assert.ok(attribution.includes(id) || attribution.includes(dashes), 'the target can tell whose it is')
      await engine.extend?.({ ...row, state: 'active' }, signal())
      const before = await engine.probe(row, signal())
      assert.equal(before.outcome, revocation === 'expiry-only' ? 'waiting' : 'alive')
      assert.ok(before.detail)
      assert.equal(await house.usable(fields), true)
      await dead(house, row)
      if (revocation === 'backend') assert.equal(await house.usable(fields), false)
    }),

    inHouse(
      'never says dead before the end of what only its end can end',
      async house => {
        const { row, fields } = await made(house)
        await house.engine.destroy(row, signal())
        assert.equal((await house.engine.probe(row, signal())).outcome, 'waiting')
        assert.equal(await house.usable(fields), true)
        const left = (row.expiresAt.getTime() - house.now().getTime()) / 1000
        house.advance?.(left - 2)
        assert.equal((await house.engine.probe(row, signal())).outcome, 'waiting')
        house.advance?.(4)
        assert.equal((await house.engine.probe(row, signal())).outcome, 'dead')
      },
      revocation === 'expiry-only' ? null : 'its credentials can be ended',
    ),

    inHouse('destroys twice without complaint', async house => {
      const { row } = await made(house)
      await dead(house, row)
      await dead(house, row)
    }),

    inHouse(
      'has all that mint made within reach of the handle that prepare gave',
      async house => {
        const { row, prepared, fields } = await made(house)
        await house.engine.destroy({ ...row, handle: prepared }, signal())
        await soon(async () => !(await house.usable(fields)), 'what mint made is still usable')
        await dead(house, row)
      },
      onlyEarly,
    ),

    inHouse('holds a row without a handle dead at once', async house => {
      const row = rowOf(granted(house), null)
      await house.engine.destroy(row, signal())
      assert.equal((await house.engine.probe(row, signal())).outcome, 'dead')
    }),

    inHouse('never calls alive what stopped between prepare and mint, once it is destroyed', async house => {
      const grant = granted(house)
      const prepared = (await house.engine.prepare?.(grant, signal())) as Handle
      const row = rowOf(grant, prepared)
      await house.engine.destroy(row, signal())
      assert.notEqual((await house.engine.probe(row, signal())).outcome, 'alive')
    }),

    inHouse(
      'ends one and leaves its neighbour',
      async house => {
        const [mine, theirs] = [await made(house), await made(house)]
        await dead(house, mine.row)
        assert.equal(await house.usable(theirs.fields), true)
        assert.equal((await house.engine.probe(theirs.row, signal())).outcome, 'alive')
      },
      onlyEarly,
    ),

    inHouse('with a broken backend neither destroys nor says dead, and tells nothing; then all goes well', async house => {
      const { row, fields, minted } = await made(house)
      await house.break()
      let failure: unknown = null
      let probe: Probe['outcome'] | 'no answer' = 'no answer'
      try {
        failure = await house.engine.destroy(row, signal()).catch((error: unknown) => error)
        probe = await house.engine.probe(row, signal()).then(
          answer => answer.outcome,
          () => 'no answer' as const,
        )
      } finally {
        await house.heal()
      }
      // Where nothing can be ended there may be nobody to ask.
      if (revocation === 'backend' || failure !== undefined) assert.ok(failure instanceof CurfewError, 'a backend that did not answer is an error of ours')
      assert.notEqual(probe, 'dead')
      const told = failure instanceof CurfewError ? `${failure.message} ${JSON.stringify(failure)}` : ''
      for (const word of [...house.secrets(fields), house.attribution(fields), ...Object.values(minted.handle).filter(v => typeof v === 'string')])
        assert.ok(!told.includes(word), 'an error tells what must not travel')
      await dead(house, row)
      if (revocation === 'backend') assert.equal(await house.usable(fields), false)
    }),

    inHouse('puts no secret into a handle, and prints none', async house => {
      const { row, fields, minted } = await made(house)
      const printed = JSON.stringify(row.handle) + inspect(minted, { depth: 9 }) + JSON.stringify(minted)
      assert.ok(house.secrets(fields).length > 0, 'a house names the secrets of what it made')
      for (const secret of house.secrets(fields)) assert.ok(!printed.includes(secret), 'a secret is printed')
      await dead(house, row)
    }),

    inHouse(
      'makes nothing that outlives its grant',
      async house => {
        const { minted, grant } = await made(house)
        assert.ok(minted.expiresAt && minted.expiresAt <= grant.expiresAt, 'what only its end can end must say when, and end with its grant')
      },
      revocation === 'expiry-only' ? null : 'it is ended with its grant',
    ),
  ]
}

const granted = (house: EngineHouse, over: Partial<GrantOptions> = {}) =>
  grantOf(house.now(), { engine: house.engine.kind, parameters: house.parameters, params: house.params ?? {}, revocation: house.engine.revocation, ...over })

async function made(house: EngineHouse): Promise<Made> {
  const grant = granted(house)
  const prepared = (await house.engine.prepare?.(grant, signal())) as Handle
  const minted = await house.engine.mint(grant, prepared, signal())
  return {
    grant,
    prepared,
    minted,
    row: rowOf(grant, { ...prepared, ...minted.handle }, { expiresAt: minted.expiresAt ?? grant.expiresAt }),
    fields: minted.secret.reveal(),
  }
}

/** Destroyed, and dead within the time that a queued revocation may take; or at its own end, where that is all. */
async function dead(house: EngineHouse, row: Credential): Promise<void> {
  await house.engine.destroy(row, signal())
  if (house.engine.revocation === 'expiry-only') house.advance?.((row.expiresAt.getTime() - house.now().getTime()) / 1000 + 1)
  await soon(async () => (await house.engine.probe(row, signal())).outcome === 'dead', 'it is not found dead')
}

async function soon(isSo: () => Promise<boolean>, otherwise: string): Promise<void> {
  const until = performance.now() + DEAD_MS
  while (!(await isSo())) {
    assert.ok(performance.now() < until, otherwise)
    await new Promise(resolve => setTimeout(resolve, 30))
  }
}

function caught(act: () => void): unknown {
  try {
    act()
    return null
  } catch (error) {
    return error
  }
}
