/** Owns asking the broker what this workload is to it, and what it may ask for (`/v1/evidence:explain`). */
import type { EvidenceSource } from './evidence/source.js'
import { CliError, EXIT } from './exit.js'
import type { Auth, Broker } from './http.js'

export interface EvidenceView {
  readonly identity: string
  readonly issuer: string
  readonly profile: string
  readonly owner: string | null
  readonly strength: number
  readonly attributes: Readonly<Record<string, unknown>>
  readonly run: string | null
  readonly issued_at: string
  readonly expires_at: string
  readonly age_seconds: number
  readonly replay: string
  readonly use: string
  readonly jkt: string | null
}

export interface OfferView {
  readonly name: string
  readonly summary: string
  readonly audience: string | null
  readonly ttl_seconds: number
  readonly max_ttl_seconds: number
  readonly max_evidence_age_seconds: number
  readonly sensitivity: string
  readonly intent: string
  readonly revocation: string
  /** What may be said beside it when it is asked for (`--param`). */
  readonly params: Readonly<Record<string, 'required' | 'optional'>>
  readonly require_proof: boolean
  readonly evidence: 'sufficient' | 'stale'
}

export interface Described {
  readonly evidence: EvidenceView
  readonly capabilities: readonly OfferView[]
  /** Milliseconds that this machine's clock is ahead of the server's, give or take half the time that the answer took. */
  readonly aheadMs: number
  readonly uncertainMs: number
}

export interface DescribeAsk {
  readonly source: EvidenceSource
  readonly auth: Auth
  readonly purpose?: string | undefined
  readonly labels?: Readonly<Record<string, string>> | undefined
}

export async function describe(broker: Broker, ask: DescribeAsk, signal: AbortSignal): Promise<Described> {
  const { advised } = await import('./evidence/source.js')
  const audience = await broker.issuer(signal)
  let sentAt = 0
  const { body } = await advised(ask.source, () =>
    broker.call(
      {
        method: 'POST',
        path: '/v1/evidence:explain',
        auth: ask.auth,
        body: async () => {
          const subject_token = await ask.source.fresh(audience, signal)
          sentAt = Date.now()
          return {
            subject_token,
            subject_token_type: ask.source.type,
            ...(ask.purpose === undefined ? {} : { purpose: ask.purpose }),
            ...(ask.labels === undefined ? {} : { labels: ask.labels }),
          }
        },
      },
      signal,
    ),
  )
  const took = Date.now() - sentAt
  const { evidence, capabilities, now } = body
  const there = typeof now === 'string' ? Date.parse(now) : Number.NaN
  if (typeof evidence !== 'object' || evidence === null || !Array.isArray(capabilities) || Number.isNaN(there))
    throw new CliError(EXIT.unexpected, { code: 'unexpected_answer', detail: "the server's answer is no description of evidence" })
  return {
    evidence: evidence as EvidenceView,
    capabilities: capabilities as OfferView[],
    aheadMs: Math.round(sentAt + took / 2 - there),
    uncertainMs: Math.ceil(took / 2),
  }
}
