/** Owns the one step that all CI providers share: a table says where a provider keeps what it states, and what of it must never be. */
import type { JWTPayload } from 'jose'
import type { OidcIssuerConfig } from '../../config-schema.js'
import { STATED, type Stated } from '../../domain/provider.js'
import { nameRun } from '../../domain/run.js'
import type { ReplayMode } from '../../domain/workload.js'
import { type Profile, refuse, required, text, texts } from './profile.js'

/** Ids are compared as text: one spelling each. */
export const NUMBER = /^(0|[1-9]\d{0,19})$/
export const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** What a token states, by our names. */
export type Said = Readonly<Record<string, string | undefined>>

export interface CiTable {
  readonly name: 'github' | 'gitlab' | 'buildkite' | 'circleci'
  /** Where a provider does not promise a `typ`. */
  readonly typAbsent?: boolean
  readonly ignoredHeaders: readonly string[]
  replay(payload: JWTPayload): ReplayMode
  /** The claim that holds a fact. */
  claim(fact: string): string
  /** What to do about a demanded fact that is missing, where there is something to be done. */
  readonly missing?: Readonly<Record<string, string>>
  /** The facts that make the identity: ids that nobody is given a second time. */
  readonly identity: readonly string[]
  /** Facts with a form of their own, those of the identity and of the run among them. */
  readonly forms: Readonly<Record<string, RegExp>>
  /** The parts of a job run's name, by fact (`JobRun`); a token without `needs` names none. */
  readonly run: { readonly owner: string; readonly within: readonly string[]; readonly job: string; readonly needs: string }
  /** Names for people that anybody may write: shown when they are plain, and never a reason to refuse. */
  readonly display?: readonly string[]
  /** Refuses what must not ask here, whatever policy says. */
  judge(said: Said, payload: JWTPayload, issuer: OidcIssuerConfig): void
}

export function ciProfile(table: CiTable): Profile {
  const stated: Stated = STATED[table.name]
  const { run } = table
  return {
    name: table.name,
    typAbsent: table.typAbsent === true,
    ignoredHeaders: table.ignoredHeaders,
    replay: table.replay,
    normalise(payload, issuer) {
      const said: Record<string, string> = {}
      for (const fact of stated.always) said[fact] = required(payload, table.claim(fact), table.missing?.[fact])
      for (const fact of stated.maybe) {
        const value = table.display?.includes(fact) ? plain(payload[table.claim(fact)]) : text(payload, table.claim(fact))
        if (value !== null) said[fact] = value
      }
      for (const [fact, form] of Object.entries(table.forms)) {
        if (said[fact] !== undefined && !form.test(said[fact])) return refuse('claim_invalid', table.claim(fact))
      }
      table.judge(said, payload, issuer)
      const sets = (stated.sets ?? []).flatMap(fact => {
        const value = texts(payload, table.claim(fact))
        return value === null ? [] : [[fact, value] as const]
      })
      const of = (fact: string) => said[fact] ?? ''
      // A colon would let one run bear the name of another.
      const part = (fact: string) => (of(fact).includes(':') ? refuse('claim_invalid', table.claim(fact)) : of(fact))
      return {
        identity: `${issuer.name}:${table.identity.map(fact => `${fact}=${of(fact)}`).join('&')}`,
        attributes: { ...said, ...Object.fromEntries(sets) },
        run: of(run.needs) ? nameRun(issuer.name, { owner: part(run.owner), within: run.within.map(part), job: part(run.job) }) : null,
      }
    },
  }
}

function plain(value: unknown): string | null {
  return typeof value === 'string' && /^[\x20-\x7e]{1,512}$/.test(value) ? value : null
}
