/** Owns the intake of completion events: what a CI provider posts when a job or a run of it is over. */
import { createHash, randomBytes } from 'node:crypto'
import type { Express, Request } from 'express'
import { z } from 'zod'
import { CurfewError } from '../domain/errors.js'
import { demandObject, type HookKind } from './hook.js'
import { buildkiteHook } from './hook-buildkite.js'
import { githubHook } from './hook-github.js'
import { gitlabSignedHook, gitlabTokenHook } from './hook-gitlab.js'
import { jsonBytes } from './request.js'
import { type Doors, route } from './route.js'

/** GitHub sends up to 25 MB; an event about one job or run with all its steps stays far below this. */
const HOOK_LIMIT = 1_048_576
/** Anybody may send so much before the signature can be looked at: only so many at a time. */
const BODIES_AT_A_TIME = 64

type Source = Doors['hooks'][number]

const KINDS = { github: githubHook, gitlab: gitlabSignedHook, 'gitlab-token': gitlabTokenHook, buildkite: buildkiteHook } as const satisfies Record<
  Source['kind'],
  HookKind
>

/** What providers send beside the body: the kind of event, and a name of the delivery. Each kind of source demands its own. */
const EVENT_HEADERS = Object.fromEntries(
  [
    'X-GitHub-Event',
    'X-GitHub-Delivery',
    'X-Gitlab-Event',
    'webhook-id',
    'webhook-timestamp',
    'Idempotency-Key',
    'X-Gitlab-Event-UUID',
    'X-Buildkite-Event',
  ].map(name => [name, z.string().max(500).optional()]),
)

/** The MAC of nobody: an unknown source takes as long to refuse as a known one. */
const NOBODY = randomBytes(32).toString('hex')

export function hookRoutes(app: Express, doors: Doors): void {
  for (const source of doors.hooks) named(source, () => kindOf(source).check?.(secretOf(source)))
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
    summary: 'A CI provider says that a job or a run is over',
    description: "Each provider's own event, as its documentation has it; of it a few members are read. Which source it is, the path says.",
    shows: [['hookGithub'], ['hookGitlab'], ['hookGitlabToken'], ['hookBuildkite']],
    params: { source: z.string() },
    headers: EVENT_HEADERS,
    rawBody: z.looseObject({}),
    raw: body,
    successes: { 200: { what: 'A ping.', body: z.object({ status: z.literal('ok') }) }, 202: { body: z.object({ status: z.enum(['accepted', 'ignored']) }) } },
    refuses: ['forbidden', 'rate_limited'],
    answer: async ({ raw, req, params, requestId }) => {
      const source = authenticSource(doors, req, params.source, raw)
      const kind = kindOf(source)
      demandObject(raw)
      const names = kind.deliveryOf(req)
      const report = kind.read(req, raw)
      const counted = (result: string) => doors.hookCounted(source.name, result)
      if (report === 'ping') {
        counted('ping')
        return { status: 200, body: { status: 'ok' } }
      }
      if (report === 'ignored') {
        counted('ignored')
        return { status: 202, body: { status: 'ignored' } }
      }
      // Headers may not be covered by the MAC: the bytes themselves are a name of the delivery too.
      const digest = createHash('sha256').update(raw).digest('base64url')
      counted(await doors.broker.runEnded(source, { ...report, delivery: [...names.map(n => `delivery:${n}`), `body:${digest}`] }, requestId))
      return { status: 202, body: { status: 'accepted' } }
    },
  })
}

const kindOf = (source: Source): HookKind => KINDS[source.kind]
const secretOf = (source: Source): string => source.secret.reveal().token as string

/** One answer for every way to fail: who may speak here, and how, is nobody's business. */
function authenticSource(doors: Doors, req: Request, name: string | undefined, raw: Buffer): Source {
  const source = doors.hooks.find(h => h.name === name)
  const isAuthentic = source
    ? kindOf(source).isAuthentic(req, raw, secretOf(source), doors.store.clock.now())
    : githubHook.isAuthentic(req, raw, NOBODY, new Date(0))
  if (source && isAuthentic) return source
  throw new CurfewError('attestation_refused', 'this event is not signed by a registered source', { reason: 'hook_refused', field: 'signature' })
}

function named(source: Source, check: () => void): void {
  try {
    check()
  } catch (error) {
    if (error instanceof Error) error.message = `hooks.${source.name}.secret: ${error.message}`
    throw error
  }
}
