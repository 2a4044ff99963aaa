/** Owns reading the events of Buildkite: `job.finished`, signed with the time of its delivery. */
import { z } from 'zod'
import { demandFresh, type HookKind, isSame, macOf, number, readJson, word } from './hook.js'
import { singleHeader } from './request.js'
import { parse } from './route.js'

const uuid = z.string().regex(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, 'must be a UUID')
const event = z.object({ event: z.string() })
const jobBody = z.object({
  job: z.object({ id: uuid, type: z.string(), state: word }),
  build: z.object({ number }),
  pipeline: z.object({ id: uuid }),
})

export const buildkiteHook: HookKind = {
  isAuthentic(req, raw, secret, now) {
    const [, at = '', given = ''] = /^timestamp=(\d{1,12}),\s?signature=([0-9a-f]{64})$/.exec(singleHeader(req, 'x-buildkite-signature') ?? '') ?? []
    if (!isSame(Buffer.from(given, 'hex'), macOf(secret, `${at}.`, raw)) || given === '') return false
    demandFresh(at, now)
    return true
  },
  // It gives a delivery no name of its own.
  deliveryOf: () => [],
  read(req, raw) {
    const named = singleHeader(req, 'x-buildkite-event')
    const json = readJson(raw)
    if (parse(event, json, 'body')?.event !== named) return 'ignored'
    if (named === 'ping') return 'ping'
    if (named !== 'job.finished') return 'ignored'
    const { job, build, pipeline } = parse(jobBody, json, 'body') as z.output<typeof jobBody>
    // Triggers, waits and blocks end too; no agent ever ran them.
    if (job.type !== 'script') return 'ignored'
    return { owner: pipeline.id, within: [build.number], job: job.id, conclusion: job.state, ownerField: 'pipeline.id' }
  },
}
