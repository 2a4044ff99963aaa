/** Owns the intake of completion events: what a CI provider posts when a job or a run of it is over. */
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { Express, Request } from 'express'
import { z } from 'zod'
import { CurfewError } from '../domain/errors.js'
import { parseStrictBytes } from '../domain/json.js'
import { EVERY_JOB } from '../domain/run.js'
import { jsonBytes, singleHeader } from './request.js'
import { type Doors, parse, route } from './route.js'

/** GitHub sends up to 25 MB; an event about one job or run with all its steps stays far below this. */
const HOOK_LIMIT = 1_048_576
/** A thousand steps of six members each, beside two repositories; nested as deep as anything else we read. */
const HOOK_JSON = { maxDepth: 8, maxMembers: 16_384 }
/** Anybody may send so much before the signature can be looked at: only so many at a time. */
const BODIES_AT_A_TIME = 64

const id = z
  .int()
  .min(1)
  .transform(n => String(n))
const word = z.string().regex(/^[a-z_]{1,40}$/, 'must be a word')
const repository = z.object({ id, owner: z.object({ id }) })
const action = z.object({ action: z.string() })
const jobBody = z.object({
  repository,
  workflow_job: z.object({
    run_id: id,
    run_attempt: id,
    conclusion: word,
    // What OIDC carries as `check_run_id` is the last part of this URL; `workflow_job.id` is the same number in all that GitHub sends.
    check_run_url: z
      .string()
      .max(500)
      .regex(/\/check-runs\/\d{1,20}$/, 'must end in the id of a check run'),
  }),
})
const runBody = z.object({ repository, workflow_run: z.object({ id, run_attempt: id, conclusion: word }) })

/** The MAC of nobody: an unknown source takes as long to refuse as a known one. */
const NOBODY = randomBytes(32).toString('hex')

export function hookRoutes(app: Express, doors: Doors): void {
  let reading = 0
  async function body(req: Request): Promise<Buffer> {
    if (reading >= BODIES_AT_A_TIME)
      throw new CurfewError('rate_limited', 'too many events arrive at once', { reason: 'hooks_full', retryAfterSeconds: 5, next: 'deliver it again' })
    reading++
    try {
      return await jsonBytes(req, HOOK_LIMIT)
    } finally {
      reading--
    }
  }

  route(app, doors, {
    method: 'post',
    path: '/v1/hooks/:source',
    who: 'public',
    raw: body,
    answer: async ({ raw, req, params, requestId }) => {
      const source = authenticSource(doors, req, params.source, raw)
      const delivery = parse(z.string().regex(/^[A-Za-z0-9-]{8,64}$/, 'must name the delivery'), singleHeader(req, 'x-github-delivery'), 'X-GitHub-Delivery')
      const event = singleHeader(req, 'x-github-event')
      const counted = (result: string) => doors.hookCounted(source.name, result)
      if (event === 'ping') {
        counted('ping')
        return { status: 200, body: { status: 'ok' } }
      }
      const report = completionOf(event, raw)
      if (!report) {
        counted('ignored')
        return { status: 202, body: { status: 'ignored' } }
      }
      // Neither header is covered by the MAC: the bytes themselves are a name of the delivery too.
      const digest = createHash('sha256').update(raw).digest('base64url')
      counted(await doors.broker.runEnded(source, { ...report, delivery: [`delivery:${delivery}`, `body:${digest}`] }, requestId))
      return { status: 202, body: { status: 'accepted' } }
    },
  })
}

/** Null for every event that ends nothing. An event is its header *and* the member of its own name: one cannot pass for the other. */
function completionOf(event: string | undefined, raw: Buffer) {
  if (event !== 'workflow_job' && event !== 'workflow_run') return null
  const json = parseStrictBytes(raw, HOOK_JSON)
  if (parse(action, json, 'body')?.action !== 'completed') return null
  if (event === 'workflow_job') {
    const { repository: r, workflow_job: job } = parse(jobBody, json, 'body') as z.output<typeof jobBody>
    const checkRun = job.check_run_url.slice(job.check_run_url.lastIndexOf('/') + 1)
    return { owner: r.owner.id, repository: r.id, run: job.run_id, attempt: job.run_attempt, job: checkRun, conclusion: job.conclusion }
  }
  const { repository: r, workflow_run: run } = parse(runBody, json, 'body') as z.output<typeof runBody>
  return { owner: r.owner.id, repository: r.id, run: run.id, attempt: run.run_attempt, job: EVERY_JOB, conclusion: run.conclusion }
}

/** One answer for every way to fail: who may speak here is nobody's business. */
function authenticSource(doors: Doors, req: Request, name: string | undefined, raw: Buffer): Doors['hooks'][number] {
  const source = doors.hooks.find(h => h.name === name)
  const given = /^sha256=([0-9a-f]{64})$/.exec(singleHeader(req, 'x-hub-signature-256') ?? '')?.[1] ?? '0'.repeat(64)
  const wanted = createHmac('sha256', (source?.secret.reveal().token as string | undefined) ?? NOBODY)
    .update(raw)
    .digest()
  if (timingSafeEqual(Buffer.from(given, 'hex'), wanted) && source) return source
  throw new CurfewError('attestation_refused', 'this event is not signed by a registered source', {
    reason: 'hook_refused',
    field: 'X-Hub-Signature-256',
  })
}
