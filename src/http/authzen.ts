/** Owns the doors of the AuthZEN Authorization API 1.0: an application or a gateway asks what the rules say, and decides by itself what to do. */
import type { Express, Request } from 'express'
import { z } from 'zod'
import type { Asker, Claimed, Question } from '../broker/evaluate.js'
import type { Decision } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import { parseStrictBytes } from '../domain/json.js'
import { resourceServer } from './introspection.js'
import { JWKS_MAX_AGE } from './metadata.js'
import { authorization, jsonBytes } from './request.js'
import { type Doors, operatorBy, parse, route } from './route.js'
import { evaluationRequest, evaluationsRequest, workloadProperties } from './schemas.js'
import { type As, evaluationShape } from './shapes.js'

const EVALUATION = '/access/v1/evaluation'
const EVALUATIONS = '/access/v1/evaluations'

/** Bytes, and members in all: fifty questions of the usual size. */
const BODY_LIMIT = 65_536
const LIMITS = { maxDepth: 12, maxMembers: 4_096 }

type Given = z.output<typeof evaluationRequest>
type Whole = z.output<typeof evaluationsRequest>
type Evaluation = As<typeof evaluationShape>

export function authzenRoutes(app: Express, doors: Doors): void {
  const { serverUrl } = doors
  const common = {
    method: 'post',
    who: 'public',
    plain: true,
    shows: [['resourceServer'], ['operator']],
    raw: (req: Request) => jsonBytes(req, BODY_LIMIT),
    refuses: ['forbidden'],
  } as const

  /** Of an operator the evidence is told, of a resource server nothing but where it is kept: what a workload may hear, it hears from `explain`. */
  async function answered(given: Given, asker: Asker, requestId: string, at: string): Promise<Evaluation> {
    const decision = await doors.broker.evaluate(questionOf(given, at), asker, requestId)
    return { decision: decision.allowed, context: { id: decision.id, ...(asker.kind === 'operator' ? reasonsOf(decision) : {}) } }
  }

  route(app, doors, {
    ...common,
    path: EVALUATION,
    summary: 'May this subject do this to that (AuthZEN)',
    rawBody: evaluationRequest,
    successes: { 200: { what: 'The decision; a denial is one as well.', body: evaluationShape } },
    answer: async ({ raw, req, requestId }) => {
      const asker = await askerOf(doors, req)
      return { status: 200, body: await answered(read(evaluationRequest, raw), asker, requestId, '') }
    },
  })

  route(app, doors, {
    ...common,
    path: EVALUATIONS,
    summary: 'The same of several, with defaults (AuthZEN)',
    rawBody: evaluationsRequest,
    successes: {
      200: { what: 'In the order of the questions.', body: z.union([z.object({ evaluations: z.array(evaluationShape) }), evaluationShape]) },
    },
    answer: async ({ raw, req, requestId }) => {
      const asker = await askerOf(doors, req)
      const whole = read(evaluationsRequest, raw)
      const questions = questionsOf(whole)
      if (questions === null) return { status: 200, body: await answered(parse(evaluationRequest, whole, 'body') as Given, asker, requestId, '') }
      const stopsAt = STOPS[whole.options?.evaluations_semantic ?? 'execute_all']
      const evaluations: Evaluation[] = []
      for (const [i, given] of questions.entries()) {
        const evaluation = await answered(given, asker, requestId, `evaluations.${i}.`)
        evaluations.push(evaluation)
        if (evaluation.decision === stopsAt) break
      }
      return { status: 200, body: { evaluations } }
    },
  })

  route(app, doors, {
    method: 'get',
    path: '/.well-known/authzen-configuration',
    who: 'public',
    summary: 'Where questions are answered (AuthZEN)',
    successes: {
      200: { body: z.object({ policy_decision_point: z.url(), access_evaluation_endpoint: z.url(), access_evaluations_endpoint: z.url() }) },
    },
    answer: async () => ({
      status: 200,
      headers: { 'Cache-Control': `public, max-age=${JWKS_MAX_AGE}` },
      body: {
        policy_decision_point: serverUrl,
        access_evaluation_endpoint: serverUrl + EVALUATION,
        access_evaluations_endpoint: serverUrl + EVALUATIONS,
      },
    }),
  })
}

const STOPS = { execute_all: null, deny_on_first_deny: false, permit_on_first_permit: true } as const

/** A registered resource server, who asks about what is its own, or an operator. Before the body is judged: strangers hear nothing of it. */
async function askerOf(doors: Doors, req: Request): Promise<Asker> {
  if (authorization(req)?.scheme === 'bearer') {
    const { id } = await operatorBy(doors, authorization(req)?.value as string, 'decisions.evaluate')
    return { kind: 'operator', id }
  }
  return { kind: 'server', audience: resourceServer(doors, req) }
}

const read = <T>(schema: z.ZodType<T>, raw: Buffer): T => parse(schema, parseStrictBytes(raw, LIMITS), 'body') as T

/** Members of the whole stand in for those that a question leaves out, each as it is. Null when there is only the whole. */
function questionsOf({ evaluations, options: _options, ...defaults }: Whole): readonly Given[] | null {
  if (!evaluations || evaluations.length === 0) return null
  return evaluations.map((own, i) => within(`evaluations.${i}.`, () => parse(evaluationRequest, { ...defaults, ...own }, '') as Given))
}

function questionOf({ subject, action, resource, context }: Given, at: string): Question {
  return {
    subject: { type: subject.type, id: subject.id },
    claimed: subject.type === 'workload' ? claimedBy(subject.properties ?? {}, at) : null,
    action: action.name,
    resource: { type: resource.type, id: resource.id },
    purpose: context.purpose,
    labels: context.labels,
    ttlSeconds: context.ttl_seconds ?? null,
    proof: context.proof,
  }
}

/** Of subjects of other types the properties are not ours to judge. */
function claimedBy(properties: Readonly<Record<string, unknown>>, at: string): Claimed {
  const p = within(`${at}subject.properties.`, () => parse(workloadProperties, properties, '') as z.output<typeof workloadProperties>)
  return { issuer: p.issuer, attributes: p.attributes, owner: p.owner ?? null, evidenceAgeSeconds: p.evidence_age, run: p.run ?? null }
}

/** What is refused is called by its place in the body. */
function within<T>(at: string, judge: () => T): T {
  try {
    return judge()
  } catch (error) {
    if (!(error instanceof CurfewError)) throw error
    throw new CurfewError(error.code, error.message, { ...error.facts, field: `${at}${error.facts.field ?? ''}` }, { cause: error })
  }
}

const reasonsOf = ({ reason, policies, explanation }: Decision) => ({
  reason_admin: { en: reason },
  policies,
  nearest_rule: explanation?.nearestRule ?? null,
  failed: explanation?.failed ?? [],
})
