/** Owns what a receipt says: its claims, read strictly, and told as people read them. */
import { CliError, EXIT } from './exit.js'
import { card, clockTime } from './output.js'
import type { Exposed } from './plan.js'
import { tellSelector } from './selectors.js'

export interface ReceiptClaims {
  readonly iss: string
  readonly iat: number
  /** `rcp_…`, and the `rev_…` that it is about. */
  readonly jti: string
  readonly sub: string
  readonly selector: unknown
  readonly reason: string
  readonly message: string | null
  readonly actor: unknown
  readonly seq: number
  readonly refused_since: string
  readonly tasks: number
  readonly credentials: { readonly selected: number; readonly revoked: number; readonly revoking: number; readonly stuck: number }
  readonly probed: Readonly<Record<string, number>>
  readonly not_probed: number
  readonly guards: { readonly applied: number; readonly of: number }
  readonly exposed: readonly Exposed[]
  readonly exposed_until: string | null
  /** All destroyed, nothing exposed. */
  readonly final: boolean
}

/** Refuses what is not in the form of the contract: a number that is missing would be read as good news. */
export function claimsOf(payload: unknown): ReceiptClaims {
  const refuse = (field: string): never => {
    throw new CliError(EXIT.refused, { code: 'receipt_refused', detail: 'this is not a receipt as Curfew writes it', reason: 'claim_invalid', field })
  }
  const object = (value: unknown, field: string): Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : refuse(field)
  const claims = object(payload, 'claims')
  const text = (value: unknown, field: string) => (typeof value === 'string' && value !== '' ? value : refuse(field))
  const count = (value: unknown, field: string) => (Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : refuse(field))
  const instant = (value: unknown, field: string) => (Number.isNaN(Date.parse(text(value, field))) ? refuse(field) : (value as string))
  const counts = (name: string, members: readonly string[]) => {
    const of = object(claims[name], name)
    return Object.fromEntries(members.map(m => [m, count(of[m], `${name}.${m}`)]))
  }
  const id = (name: 'jti' | 'sub', prefix: string) => (text(claims[name], name).startsWith(prefix) ? (claims[name] as string) : refuse(name))
  return {
    iss: text(claims.iss, 'iss'),
    iat: count(claims.iat, 'iat') <= 8_640_000_000_000 ? (claims.iat as number) : refuse('iat'),
    jti: id('jti', 'rcp_'),
    sub: id('sub', 'rev_'),
    selector: object(claims.selector, 'selector'),
    reason: text(claims.reason, 'reason'),
    message: claims.message === null || claims.message === undefined ? null : text(claims.message, 'message'),
    actor: claims.actor,
    seq: count(claims.seq, 'seq'),
    refused_since: instant(claims.refused_since, 'refused_since'),
    tasks: count(claims.tasks, 'tasks'),
    credentials: counts('credentials', ['selected', 'revoked', 'revoking', 'stuck']) as unknown as ReceiptClaims['credentials'],
    probed: counts('probed', Object.keys(object(claims.probed, 'probed'))),
    not_probed: count(claims.not_probed, 'not_probed'),
    guards: counts('guards', ['applied', 'of']) as unknown as ReceiptClaims['guards'],
    exposed: (Array.isArray(claims.exposed) ? claims.exposed : refuse('exposed')).map((item: unknown, i: number) => {
      const e = object(item, `exposed.${i}`)
      return { credential: text(e.credential, `exposed.${i}`), capability: text(e.capability, `exposed.${i}`), until: instant(e.until, `exposed.${i}`) }
    }),
    exposed_until: claims.exposed_until === null || claims.exposed_until === undefined ? null : instant(claims.exposed_until, 'exposed_until'),
    final: typeof claims.final === 'boolean' ? claims.final : refuse('final'),
  }
}

const when = (instant: string, withMs = false) => `${instant.slice(0, 10)} ${clockTime(instant, withMs)}Z`

/** Numbers before words: what was refused, where it has arrived, what is dead and who looked, what is not. */
export function tellReceipt(claims: ReceiptClaims, more: Readonly<Record<string, string>> = {}): string {
  const { credentials: c, guards } = claims
  const kinds = Object.entries(claims.probed).filter(([, n]) => n > 0)
  return card({
    receipt: `${claims.jti} of ${claims.sub}, as of ${when(new Date(claims.iat * 1000).toISOString())}`,
    selector: tellSelector(claims.selector),
    reason: claims.message === null ? claims.reason : `${claims.reason}: ${claims.message}`,
    by: actorOf(claims.actor),
    'refused since': when(claims.refused_since, true),
    guards: guards.of === 0 ? `none, at seq ${claims.seq}` : `${guards.applied}/${guards.of} at seq ${claims.seq}`,
    tasks: `${claims.tasks} ended`,
    destroyed: `${c.revoked}/${c.selected}${c.revoking > 0 ? `, ${c.revoking} revoking` : ''}${c.stuck > 0 ? `, ${c.stuck} stuck` : ''}`,
    probed: `${Math.max(0, c.revoked - claims.not_probed)}/${c.revoked}${kinds.length > 0 ? ` (${kinds.map(([k, n]) => `${k} ${n}`).join(', ')})` : ''}`,
    'not probed': String(claims.not_probed),
    exposed: claims.exposed.length === 0 ? 'nothing' : claims.exposed.map(e => `${e.credential} ${e.capability} until ${clockTime(e.until)}Z`).join(', '),
    'exposed until': claims.exposed_until === null ? undefined : when(claims.exposed_until),
    final: claims.final ? 'yes: nothing is left to do' : 'no: read it again later',
    ...more,
  })
}

export function actorOf(actor: unknown): string {
  if (typeof actor === 'string') return actor
  const { kind, id } = (actor ?? {}) as { kind?: unknown; id?: unknown }
  return [kind, id].filter(part => typeof part === 'string').join(' ') || '?'
}
