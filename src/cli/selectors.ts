/** Owns how a responder says what is meant: the flags, and the contract's selector that they become (docs/http-api.md, "Selectors"). */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { usage } from './exit.js'
import type { Broker } from './http.js'
import { connect, label, type ServerFlags } from './options.js'
import type { Io } from './output.js'

/** A time as it was typed: an instant, or so long ago by the broker's clock. */
export type Moment = { readonly at: Date } | { readonly agoSeconds: number }

export interface SelectorFlags {
  readonly credential?: string
  readonly task?: string
  readonly identity?: string
  readonly issuer?: string
  readonly key?: string
  readonly capability?: string
  readonly all?: boolean
  readonly issuedBefore?: Moment
  readonly issuedAfter?: Moment
  readonly repositoryId?: string
  readonly workflowRef?: string
  readonly workflowSha?: string
  readonly runId?: string
  readonly actor?: string
  readonly owner?: string
  readonly label?: Readonly<Record<string, string>>
  readonly audience?: string
  readonly engine?: string
}

/** For flags beside selectors: here `--issuer` is a trust issuer. */
export interface SelectingFlags extends SelectorFlags, Omit<ServerFlags, 'issuer'> {
  readonly publicUrl?: string
}

export type Selector = Readonly<Record<string, unknown>>
/** A selector whose times may still need the broker's clock. */
export interface Wanted {
  readonly selector: Selector
  readonly issuedBefore?: Moment
  readonly issuedAfter?: Moment
}

type Name = keyof SelectorFlags

const SCOPES = ['credential', 'task', 'identity', 'issuer', 'key', 'capability', 'all'] as const satisfies readonly Name[]
/** Those that may stand beside attributes. */
const BOTH: readonly Name[] = ['identity', 'issuer', 'capability']
const ATTRIBUTES = [
  'repositoryId',
  'workflowRef',
  'workflowSha',
  'runId',
  'actor',
  'owner',
  'label',
  'audience',
  'engine',
  'issuedAfter',
] as const satisfies readonly Name[]
const SELECTORS: readonly Name[] = [...SCOPES, ...ATTRIBUTES, 'issuedBefore']
/** What new credentials can be refused by, where attributes are named. */
const QUARANTINABLE: readonly Name[] = [...BOTH, 'repositoryId', 'workflowRef', 'workflowSha', 'runId', 'actor', 'owner']

const flagOf = (name: Name) => `--${name.replace(/[A-Z]/g, c => `-${c.toLowerCase()}`)}`
const memberOf = (name: Name) => name.replace(/[A-Z]/g, c => `_${c.toLowerCase()}`)
const given = (flags: SelectorFlags, names: readonly Name[]) => names.filter(name => flags[name] !== undefined)
const flagsOf = (names: readonly Name[]) => names.map(flagOf).join(', ')

const OPTIONS: Readonly<Record<Name, readonly [value: string, help: string]>> = {
  credential: ['<id>', 'one credential'],
  task: ['<id>', 'a task and everything below it'],
  identity: ['<uri>', 'all that a workload identity holds'],
  issuer: ['<name>', 'all that came by a trust issuer'],
  key: ['<kid>', 'all that a signing key signed'],
  capability: ['<name>', 'all for a capability'],
  all: ['', 'all there is'],
  issuedBefore: ['<time>', 'issued until then: RFC 3339, or 10m for ten minutes ago'],
  issuedAfter: ['<time>', 'issued since then'],
  repositoryId: ['<id>', 'attested'],
  workflowRef: ['<ref>', 'attested'],
  workflowSha: ['<sha>', 'attested'],
  runId: ['<id>', 'attested'],
  actor: ['<name>', 'attested'],
  owner: ['<name>', 'who answers for the task'],
  label: ['<k=v>', 'a label of the task, repeatable'],
  audience: ['<uri>', 'for this resource server'],
  engine: ['<kind>', 'made by this engine'],
}

const ATTRIBUTES_HELP = `
Attributes, all of which must hold; --identity, --issuer and --capability may stand beside them:
  --repository-id --workflow-ref --workflow-sha --run-id --actor --owner`
const MORE_HELP = ' --label k=v (repeatable)\n  --audience --engine --issued-after --issued-before'

/** Adds the flags of a selector. The attributes are told in one paragraph: help is read at 3 a.m. @param told how: as the act, as a quarantine, or not at all */
export function withSelectors(command: Command, told: 'all' | 'quarantine' | Readonly<Partial<Record<Name, string>>>): Command {
  const isOneOf = (names: readonly Name[], name: Name) => names.includes(name)
  const hidden = (name: Name) => (typeof told === 'object' ? !(name in told) : isOneOf(ATTRIBUTES, name))
  for (const name of SELECTORS) {
    if (told === 'quarantine' && !isOneOf(SCOPES, name) && !isOneOf(QUARANTINABLE, name)) continue
    const [value, help] = OPTIONS[name]
    const option = new Option(`${flagOf(name)} ${value}`.trim(), typeof told === 'object' ? (told[name] ?? help) : help)
    if (name === 'label') option.argParser(labels)
    else if (name === 'issuedBefore' || name === 'issuedAfter') option.argParser(moment)
    else if (name !== 'all') option.argParser(once)
    command.addOption(hidden(name) ? option.hideHelp() : option)
  }
  if (typeof told === 'string') command.addHelpText('after', ATTRIBUTES_HELP + (told === 'all' ? MORE_HELP : ''))
  return command
}

/** The later of two would win silently, and the first would live on. */
function once(text: string, before: string | undefined): string {
  if (before !== undefined) throw new InvalidArgumentError('It is given twice.')
  if (text.trim() === '' || text.startsWith('--')) throw new InvalidArgumentError('It has no value.')
  return text
}

function labels(text: string, before: Record<string, string> | undefined): Record<string, string> {
  const name = text.split('=', 1)[0] as string
  if (before && Object.hasOwn(before, name)) throw new InvalidArgumentError('It is given twice.')
  return label(text, before)
}

const RFC3339 = /^(\d{4})-(\d\d)-(\d\d)[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/

/** `2026-11-24T12:00:00Z`, or `90s`, `10m`, `2h`, `1d12h`: so long ago. */
export function moment(text: string, before?: unknown): Moment {
  if (before !== undefined) throw new InvalidArgumentError('It is given twice.')
  const ago = /^(?=\d)(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,7})s)?$/.exec(text)
  if (ago) {
    const [days, hours, minutes, seconds] = ago.slice(1).map(n => Number(n ?? 0)) as [number, number, number, number]
    return { agoSeconds: ((days * 24 + hours) * 60 + minutes) * 60 + seconds }
  }
  const date = RFC3339.exec(text)
  const at = new Date(text.toUpperCase())
  // The platform reads 30 February as 2 March.
  if (!date || Number.isNaN(at.getTime()) || Number(date[3]) > new Date(Date.UTC(Number(date[1]), Number(date[2]), 0)).getUTCDate()) {
    throw new InvalidArgumentError('Say it like 2026-11-24T12:00:00Z, or 10m for ten minutes ago.')
  }
  return { at }
}

export function hasSelector(flags: SelectorFlags): boolean {
  return given(flags, SELECTORS).length > 0
}

/** Exactly the rule of the contract: one scope, or attributes. Judged before anything is sent. */
export function selectorOf(flags: SelectorFlags): Wanted {
  const scopes = given(flags, SCOPES)
  const attributes = given(flags, ATTRIBUTES)
  const [scope] = scopes
  const { issuedBefore, issuedAfter } = flags
  if (attributes.length === 0 && scope !== undefined && scopes.length === 1) {
    if (issuedBefore !== undefined && (scope === 'credential' || scope === 'task')) throw usage(`--issued-before does not go with ${flagOf(scope)}`)
    return { selector: members(flags, scopes), ...(issuedBefore === undefined ? {} : { issuedBefore }) }
  }
  if (attributes.length === 0 && issuedBefore === undefined) {
    throw scope === undefined
      ? usage(`name what is meant: one of ${flagsOf(SCOPES)}, or attributes`, 'curfew revoke --help')
      : usage(`${flagsOf(scopes)}: name exactly one of them, or attributes with them`)
  }
  const alone = scopes.filter(name => !BOTH.includes(name))
  if (alone.length > 0) throw usage(`${flagsOf(alone)} cannot stand beside ${flagsOf(given(flags, SELECTORS).filter(name => !alone.includes(name as never)))}`)
  return {
    selector: members(flags, [...scopes, ...attributes.filter(name => name !== 'issuedAfter')]),
    ...(issuedBefore === undefined ? {} : { issuedBefore }),
    ...(issuedAfter === undefined ? {} : { issuedAfter }),
  }
}

function members(flags: SelectorFlags, names: readonly Name[]): Selector {
  return Object.fromEntries(names.map(name => [memberOf(name), flags[name]]))
}

/** Refuses what a quarantine cannot look at in something new. */
export function checkQuarantinable(flags: SelectorFlags): void {
  const attributes = given(flags, ATTRIBUTES)
  const isScope = attributes.length === 0 && given(flags, SCOPES).length === 1
  const not = isScope ? given(flags, ['issuedBefore']) : given(flags, SELECTORS).filter(name => !QUARANTINABLE.includes(name))
  if (not.length > 0) throw usage(`a quarantine cannot look at ${flagsOf(not)}`, `revoke first, then: curfew quarantine with ${flagsOf(QUARANTINABLE)}`)
}

/** What a list can be narrowed by, and how that is told. */
export const LISTABLE: Readonly<Partial<Record<Name, string>>> = {
  task: 'of this task',
  identity: 'of this workload identity',
  capability: 'for this capability',
}

export function checkListable(flags: SelectorFlags): void {
  const not = given(flags, SELECTORS).filter(name => !(name in LISTABLE))
  if (not.length > 0)
    throw usage(
      `a list cannot be narrowed by ${flagsOf(not)}, only by ${flagsOf(Object.keys(LISTABLE) as Name[])} and --state`,
      'what such a selector would hit: curfew revoke … --preview',
    )
}

/** The selector as it is sent. What is relative is counted back from the broker's clock, never from this machine's, which may be off by what matters. */
export async function resolved(wanted: Wanted, broker: Broker, signal: AbortSignal): Promise<Selector> {
  const { selector, issuedBefore, issuedAfter } = wanted
  const relative = [issuedBefore, issuedAfter].some(m => m !== undefined && 'agoSeconds' in m)
  const now = relative ? await clockOf(broker, signal) : null
  const instant = (m: Moment) => ('at' in m ? m.at : new Date((now as Date).getTime() - m.agoSeconds * 1000))
  const before = issuedBefore && instant(issuedBefore)
  const after = issuedAfter && instant(issuedAfter)
  if (before && after && after > before) throw usage('--issued-after lies behind --issued-before: that is no time at all')
  return {
    ...selector,
    ...(after ? { issued_after: after.toISOString() } : {}),
    ...(before ? { issued_before: before.toISOString() } : {}),
  }
}

async function clockOf(broker: Broker, signal: AbortSignal): Promise<Date> {
  const { clock } = await broker.call(
    { method: 'GET', path: '/.well-known/oauth-authorization-server', auth: { kind: 'none' }, headers: () => ({ 'Cache-Control': 'no-cache' }) },
    signal,
  )
  if (clock) return clock
  throw usage(
    'the broker does not tell its clock, so that "ago" has no meaning here',
    'say --issued-before and --issued-after as RFC 3339, like 2026-11-24T12:00:00Z',
  )
}

/** What a selector hits when it is typed: one thing, or who knows how many. */
export const isNarrow = ({ selector }: Wanted) => 'credential' in selector || 'task' in selector

/** The subject of a signal. */
export function subjectOf(flags: SelectorFlags): Selector {
  const names = given(flags, ['credential', 'task', 'identity'])
  if (names.length !== 1) throw usage('name exactly one of --credential, --task and --identity')
  return members(flags, names)
}

/** `identity=github:repository_id=456789`, `label.team=data owner=@orders`. */
export function tellSelector(selector: unknown): string {
  if (typeof selector !== 'object' || selector === null) return '?'
  return Object.entries(selector)
    .flatMap(([name, value]) => {
      if (value === true || value === '*') return [name]
      if (typeof value === 'object' && value !== null) return Object.entries(value).map(([k, v]) => `${name}.${k}=${String(v)}`)
      return [`${name}=${String(value)}`]
    })
    .join(' ')
}

export function connectSelecting({ issuer: _, publicUrl, ...flags }: SelectingFlags, io: Io): Promise<Broker> {
  return connect({ ...flags, ...(publicUrl === undefined ? {} : { issuer: publicUrl }) }, io)
}
