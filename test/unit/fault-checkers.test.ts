/** Owns the proof that every checker of the fault runs finds what it looks for: worlds that are well, and the same with one thing wrong. */
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { inState } from '../../src/store/sql.js'
import { BREAKS } from '../faults/broken.js'
import { INJECTED, idsIn } from '../faults/catalogue.js'
import { type AuditRow, acceptedTooLong, acknowledged, evidenceFirst, type Findings, nothingReturns, outages, type Row } from '../faults/invariants.js'
import { type Entry, type Held, type Ledger, newLedger, noteEnd, type Shown } from '../faults/ledger.js'
import { CAPABILITIES } from '../faults/narrowing.js'
import { openedTwice, type Told, unmarked, usedTwice } from '../faults/one-time.js'
import { AUDIENCE, DB, JWT } from '../faults/world.js'
import { type Bounds, type CredentialRow, outlives, type TaskRow, widened as widenedIn } from '../narrowing.js'

const NOW = 1_000_000
const widened = (tasks: readonly TaskRow[], credentials: readonly CredentialRow[], bounds: ReadonlyMap<string, Bounds>) =>
  widenedIn(tasks, credentials, bounds, CAPABILITIES)
const entry = (over: Partial<Entry> = {}): Entry => ({
  ...{ op: 'issue', sentAt: NOW - 10, ackAt: NOW, status: 201, subject: 'crd_1', task: 'tsk_1', shown: [], decision: 'dec_1' },
  ...over,
})
const ledgerOf = (...entries: Entry[]): Ledger => ({ ...newLedger(), entries })
let ids = 0
const told = (kind: string, subject: string, data: AuditRow['data'] = {}, at = NOW - 5): AuditRow => ({ id: String(++ids), at, kind, subject, data })

describe('I1 accepted too long', () => {
  const late = (askedAt: number, isBySignal = false): Ledger => ({ ...newLedger(), late: [{ credential: 'crd_1', askedAt, from: NOW, isBySignal }] })

  it('finds an answer later than the bound, and takes one within it', () => {
    expect(acceptedTooLong(late(NOW + 1_001))).toEqual([expect.stringContaining('I1 crd_1')])
    expect(acceptedTooLong(late(NOW + 1_000))).toEqual([])
  })

  it('gives a signal the sweep after the last heal, and no more', () => {
    const healed = (askedAt: number) => ({ ...late(askedAt, true), healedAt: NOW + 5_000 })
    expect(acceptedTooLong(healed(NOW + 6_500))).toEqual([])
    expect(acceptedTooLong(healed(NOW + 7_500))).toHaveLength(1)
  })

  it('counts the end of a task for all below it, and the end of a credential for itself alone', () => {
    const held = (task: string, parent: Held | null = null): Held => ({
      ...{ workload: {} as Held['workload'], evidence: null, task, token: '', credential: null, refusedFrom: null, endedFrom: null, isBySignal: false },
      below: parent && { parent, grant: '', bounds: {} as Bounds },
    })
    const top = held('tsk_1')
    const child = held('tsk_2', top)
    const ledger = { ...newLedger(), held: [top, child, held('tsk_3', child), held('tsk_4')] }
    noteEnd(ledger, top, NOW, { ofTask: false, isBySignal: false })
    expect(ledger.held.map(h => h.refusedFrom)).toEqual([NOW, null, null, null])
    noteEnd(ledger, top, NOW + 1, { ofTask: true, isBySignal: false })
    expect(ledger.held.map(h => h.refusedFrom)).toEqual([NOW, NOW + 1, NOW + 1, null])
    expect(ledger.held.map(h => h.endedFrom)).toEqual([NOW + 1, NOW + 1, NOW + 1, null])
  })
})

describe('I3 nothing returns', () => {
  const row = (state: string): Row => ({ ...{ id: 'crd_1', task: 'tsk_1', state, engine: 'jwt', decision: 'dec_1' }, is_waiting: false, late_ms: null })
  const walk = (...kinds: string[]) => kinds.map(kind => told(`credential.${kind}`, 'crd_1'))

  it.each([
    ['a walk to its end', walk('intended', 'handle_recorded', 'issued', 'revoking', 'destroy_failed', 'stuck', 'revoked'), 'revoked', 0],
    ['a closed row that is issued', walk('intended', 'revoking', 'issued'), 'active', 1],
    ['a dead one that dies again', walk('issued', 'revoking', 'revoked', 'revoked'), 'revoked', 1],
    ['a confirmation without an end', walk('issued', 'revoked'), 'revoked', 1],
    ['a row that is not where the audit says', walk('issued', 'revoking'), 'active', 1],
    ['a row of which nothing is told', [], 'active', 1],
  ])('%s', (_name, audit, state, wrong) => {
    const found = nothingReturns(audit, [row(state)])
    expect(found).toHaveLength(wrong)
    for (const text of found) expect(text).toMatch(/^I3 crd_1/)
  })
})

describe('I4, I6, I8 evidence first, and one row for each act', () => {
  const whole = [told('credential.issued', 'crd_1'), told('decision.permitted', 'dec_1')]
  const rows: Row[] = [{ id: 'crd_1', task: 'tsk_1', state: 'active', engine: 'jwt', decision: 'dec_1', is_waiting: false, late_ms: null }]
  const acts = (ledger: Ledger, audit: readonly AuditRow[], there = rows): Findings => {
    const findings: Findings = { violations: [], lost: [], orphans: [] }
    acknowledged(ledger, audit, there, findings)
    return findings
  }

  it('is content with what is well', () => {
    expect(evidenceFirst(ledgerOf(entry()), whole)).toEqual([])
    expect(acts(ledgerOf(entry()), whole)).toEqual({ violations: [], lost: [], orphans: [] })
    expect(outages(ledgerOf(entry()))).toEqual([])
  })

  it('finds a secret that left before its audit row, or without it, or without its decision', () => {
    expect(evidenceFirst(ledgerOf(entry()), [told('credential.issued', 'crd_1', {}, NOW + 1), whole[1] as AuditRow])).toEqual([expect.stringMatching(/^I4/)])
    expect(evidenceFirst(ledgerOf(entry()), whole.slice(1))).toEqual([expect.stringMatching(/^I4/)])
    expect(evidenceFirst(ledgerOf(entry()), whole.slice(0, 1))).toEqual([expect.stringMatching(/^I8/)])
    // Within the millisecond that a client's clock can tell, it was before.
    expect(evidenceFirst(ledgerOf(entry()), [told('credential.issued', 'crd_1', {}, NOW + 0.9), whole[1] as AuditRow])).toEqual([])
  })

  it('finds an act that was acknowledged and is not told, is told twice, or has no effect', () => {
    expect(acts(ledgerOf(entry()), whole.slice(1)).lost).toHaveLength(1)
    expect(acts(ledgerOf(entry()), [...whole, whole[0] as AuditRow]).violations).toEqual([expect.stringMatching(/^I6 crd_1 has 2 rows/)])
    expect(acts(ledgerOf(entry()), whole, []).lost).toHaveLength(1)
  })

  it('tells delegations of one task apart by their grants', () => {
    const delegated = ledgerOf(entry({ op: 'delegate', subject: 'gnt_1' }), entry({ op: 'delegate', subject: 'gnt_2' }))
    const both = ['gnt_1', 'gnt_2'].map(grant => told('task.delegated', 'tsk_1', { grant }))
    expect(acts(delegated, both)).toEqual({ violations: [], lost: [], orphans: [] })
    expect(acts(delegated, both.slice(1)).lost).toEqual([expect.stringContaining('gnt_1')])
  })

  it('finds what was acknowledged while there was no store', () => {
    expect(outages({ ...ledgerOf(entry()), outages: [{ from: NOW - 100, to: NOW + 100 }] })).toEqual([expect.stringMatching(/^I8 issue crd_1/)])
  })
})

describe('I5 what is good once', () => {
  const proof: Shown = { kind: 'proof', id: 'p1' }
  const evidence: Shown = { kind: 'evidence', id: 'jti:e1' }

  it('finds a thing that was acknowledged twice, by whomever; refused or silent it was not used', () => {
    const first = entry({ op: 'open', subject: 'tsk_1', shown: [proof, evidence] })
    const again = (over: Partial<Entry>) => entry({ op: 'open', subject: 'tsk_2', shown: [evidence], ...over })
    expect(usedTwice({ entries: [first], hostile: [again({})] })).toEqual([
      expect.stringMatching(/^I5 evidence jti:e1 was good 2 times: open tsk_1, open tsk_2/),
    ])
    expect(usedTwice({ entries: [first], hostile: [again({ subject: null, status: 401 }), again({ subject: null, status: 0 })] })).toEqual([])
    expect(usedTwice({ entries: [first, entry({ shown: [proof] })], hostile: [] })).toEqual([expect.stringContaining('proof p1')])
  })

  const opened = (subject: string, data: Told['data'], kind = 'task.opened'): Told => ({ kind, subject, data: { parent: null, grant: null, ...data } })

  it('finds evidence or a grant that stands in two openings, although no client heard of the second', () => {
    expect(openedTwice([opened('tsk_1', { evidence: 'd1' }), opened('tsk_2', { evidence: 'd1' })])).toEqual([
      expect.stringMatching(/^I5 evidence of digest d1 .*tsk_1, tsk_2/),
    ])
    expect(openedTwice([opened('tsk_1', { evidence: 'd1' }), opened('tsk_2', { evidence: 'd1' }, 'task.attested')])).toHaveLength(1)
    const below = ['tsk_2', 'tsk_3'].map((id, i) => opened(id, { parent: 'tsk_1', grant: 'gnt_1', evidence: `d${i + 2}` }))
    expect(openedTwice([opened('tsk_1', { evidence: 'd1' }), ...below])).toEqual([expect.stringMatching(/^I5 grant gnt_1 .*tsk_2, tsk_3/)])
  })

  it('lets a child carry what its parent showed, and nobody else', () => {
    const parent = opened('tsk_1', { evidence: 'd1' })
    expect(openedTwice([parent, opened('tsk_2', { parent: 'tsk_1', grant: 'gnt_1', evidence: 'd1' })])).toEqual([])
    expect(openedTwice([parent, opened('tsk_3', { evidence: 'd3' }), opened('tsk_2', { parent: 'tsk_3', grant: 'gnt_1', evidence: 'd1' })])).toHaveLength(1)
  })

  it('finds an acknowledged act whose proof left no mark, for as long as it could be shown again', () => {
    const ledger = ledgerOf(entry({ shown: [proof] }))
    expect(unmarked(ledger, new Set(), NOW)).toEqual([expect.stringMatching(/^I5 issue crd_1 .*proof/)])
    expect(unmarked(ledger, new Set(['p1']), NOW)).toEqual([])
    expect(unmarked(ledger, new Set(), NOW + 301_000)).toEqual([])
    expect(unmarked(ledgerOf(entry({ shown: [proof], subject: null })), new Set(), NOW)).toEqual([])
  })
})

describe('I7 what stands below is no wider', () => {
  const top: TaskRow = {
    ...{ id: 'tsk_1', parent: null, ancestors: [], capabilities: [DB, JWT], owner: 'team', identity: 'github:1', actors: [], jkt: 'k1', state: 'open' },
    ...{ openedAt: NOW, deadlineAt: NOW + 600_000 },
  }
  const child: TaskRow = {
    ...top,
    id: 'tsk_2',
    parent: 'tsk_1',
    ancestors: ['tsk_1'],
    capabilities: [JWT],
    jkt: 'k2',
    openedAt: NOW + 1,
    deadlineAt: NOW + 300_001,
  }
  const grandchild: TaskRow = { ...child, id: 'tsk_3', parent: 'tsk_2', ancestors: ['tsk_2', 'tsk_1'], identity: 'github:2', actors: ['github:1'], jkt: 'k3' }
  const family = [top, child, grandchild]
  const bounds = new Map<string, Bounds>([['tsk_2', { jkt: 'k2', capabilities: [JWT], lifeSeconds: 300 }]])
  const token: CredentialRow = {
    ...{ id: 'crd_1', task: 'tsk_2', ancestors: ['tsk_1'], capability: JWT, audience: AUDIENCE, identity: 'github:1', jkt: 'k2', state: 'active' },
    ...{ expiresAt: NOW + 300_000, decided: { allowed: true, capability: JWT, identity: 'github:1', policies: ['ci-jwt'] } },
  }

  it('is content with a family and its credentials', () => {
    expect(widened(family, [token], bounds)).toEqual([])
    expect(outlives(family, [token])).toEqual([])
  })

  it.each<[string, Partial<TaskRow>, RegExp]>([
    ['more than its parent', { capabilities: [JWT, 'db/other'] }, /tsk_2 may do db\/other/],
    ['more than its grant', { capabilities: [JWT, DB] }, /tsk_2 may do more than its grant/],
    ['a later end than its parent', { deadlineAt: NOW + 600_001 }, /tsk_2 ends 1 ms after tsk_1/],
    ['a longer life than its grant', { deadlineAt: NOW + 300_002 }, /tsk_2 lives longer than its grant/],
    ['another key than its grant', { jkt: 'k9' }, /tsk_2 is bound to another key/],
    ['another owner', { owner: 'others' }, /tsk_2 is of another owner/],
    ['a missing ancestor', { ancestors: [] }, /tsk_2 is not recorded below/],
    ['a parent that is no task', { parent: 'tsk_9' }, /tsk_2 is below tsk_9/],
    ['another identity, in nobody’s name', { identity: 'github:7' }, /tsk_2 acts for/],
    ['a principal that is not above it', { actors: ['github:7'] }, /tsk_2 acts for github:7/],
  ])('finds a child with %s', (name, over, wanted) => {
    expect(widened([top, { ...child, ...over }], [], name.includes('grant') ? bounds : new Map())).toEqual([
      expect.stringMatching(new RegExp(`^I7 ${wanted.source}`)),
    ])
  })

  it('finds a chain that is too deep', () => {
    const chain = [top]
    for (let n = 2; n <= 7; n++) {
      const above = chain.at(-1) as TaskRow
      chain.push({ ...child, id: `tsk_${n}`, parent: above.id, ancestors: [above.id, ...above.ancestors] })
    }
    expect(widened(chain.slice(0, 6), [], new Map())).toEqual([])
    expect(widened(chain, [], new Map())).toEqual(['I7 tsk_7 has 6 tasks above it'])
  })

  it.each<[string, Partial<CredentialRow>, RegExp]>([
    [
      'for what its task may not do',
      { capability: DB, audience: null, decided: { allowed: true, capability: DB, identity: 'github:1', policies: ['ci-db'] } },
      /crd_1 is for .*, which tsk_2/,
    ],
    ['that outlives its task', { expiresAt: NOW + 300_002 }, /crd_1 expires 1 ms after the end of tsk_2/],
    ['recorded below nothing', { ancestors: [] }, /crd_1 is not recorded below/],
    [
      'of another workload',
      { identity: 'github:2', decided: { allowed: true, capability: JWT, identity: 'github:2', policies: ['ci-jwt'] } },
      /crd_1 is of github:2/,
    ],
    ['bound to no key', { jkt: null }, /crd_1 is bound to no key/],
    ['bound to another key', { jkt: 'k1' }, /crd_1 is bound to another key/],
    ['for another audience', { audience: 'https://other.example/' }, /crd_1 is for the audience/],
    ['without a decision', { decided: null }, /crd_1 rests on no decision/],
    ['on a denial', { decided: { allowed: false, capability: JWT, identity: 'github:1', policies: [] } }, /crd_1 rests on/],
    [
      'on a permit for something else',
      { decided: { allowed: true, capability: DB, identity: 'github:1', policies: ['ci-db'] } },
      /crd_1 rests on a decision on/,
    ],
    ['on a permit for somebody else', { decided: { allowed: true, capability: JWT, identity: 'github:2', policies: ['ci-jwt'] } }, /crd_1 rests on/],
    ['by a rule that does not exist', { decided: { allowed: true, capability: JWT, identity: 'github:1', policies: ['other'] } }, /crd_1 rests on .* by other/],
  ])('finds a credential %s', (_name, over, wanted) => {
    expect(widened(family, [{ ...token, ...over }], bounds)).toEqual([expect.stringMatching(new RegExp(`^I7 ${wanted.source}`))])
  })

  it('finds what lives on below a task that has ended (I1)', () => {
    const ended = [{ ...top, state: 'completed' }, child, grandchild]
    expect(outlives(ended, [{ ...token, state: 'revoked' }])).toEqual([
      expect.stringContaining('I1 tsk_2 is open'),
      expect.stringContaining('I1 tsk_3 is open'),
    ])
    const closed = family.map(t => ({ ...t, state: 'completed' }))
    expect(outlives(closed, [token])).toEqual(['I1 crd_1 is active, and its task has ended'])
  })
})

describe('what a run is broken with on purpose', () => {
  const store = new URL('../../src/store/', import.meta.url)
  // As PostgreSQL is asked them.
  const spoken = (text: string) =>
    text.replace(/\$\{inState\(([^)]*)\)\}/g, (_, words: string) => inState(...(words.split(', ').map(w => w.slice(1, -1)) as [string, ...string[]])))
  const statements = readdirSync(store).flatMap(name => spoken(readFileSync(new URL(name, store), 'utf8')).match(/`[^`]*`|'[^'\n]*'/g) ?? [])
  const all = Object.entries(BREAKS).flatMap(([name, breakages]) => breakages.map((b, i) => [`${name} ${i + 1}`, b] as const))

  it.each(all)('%s still finds its guard in the statement that has it', (_name, { statement, guard }) => {
    const found = statements.map(text => text.slice(1, -1)).filter(text => statement.test(text))
    expect(found.length).toBeGreaterThan(0)
    for (const text of found) expect(text).toMatch(guard)
  })
})

describe('the catalogue', () => {
  it('counts a fault where it is injected, and not where its twin or its aftermath is looked at', () => {
    expect(idsIn('F14–F16, F39 kill -9 twice in a row')).toEqual(expect.arrayContaining(['F14', 'F15', 'F16', 'F39']))
    expect(idsIn('F29, F32 twin: the same acts')).toEqual([])
    expect(idsIn('F14–F22 the invariants, worker returned')).toEqual([])
    expect(idsIn('I8 the audit cannot be written')).toEqual([])
    expect(INJECTED).toHaveLength(32)
    expect(INJECTED).toEqual(expect.arrayContaining(['F01', 'F25', 'F26', 'F44']))
  })
})
