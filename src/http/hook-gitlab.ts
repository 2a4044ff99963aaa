/** Owns reading the job events of GitLab, by a signing token (the form of Standard Webhooks) or, of older instances, by the secret that they send along. */
import { z } from 'zod'
import { CurfewError } from '../domain/errors.js'
import { deliveryName, demandFresh, type HookKind, isSame, macOf, number, readJson, word } from './hook.js'
import { singleHeader } from './request.js'
import { parse } from './route.js'

/** What a job never leaves again. A retry is a job of its own, with an id of its own. */
const TERMINAL = new Set(['success', 'failed', 'canceled', 'skipped'])

const jobBody = z.object({ object_kind: z.literal('build'), build_id: number, build_status: word, pipeline_id: number, project_id: number })

const common: Pick<HookKind, 'deliveryOf' | 'read'> = {
  // The same for every attempt at one delivery. Older instances send neither; the bytes are a name of it in any case.
  deliveryOf: req =>
    ['webhook-id', 'idempotency-key', 'x-gitlab-event-uuid'].flatMap(header => {
      const given = singleHeader(req, header)
      return given === undefined ? [] : [`${header} ${parse(deliveryName, given, header)}`]
    }),
  read(req, raw) {
    if (singleHeader(req, 'x-gitlab-event') !== 'Job Hook') return 'ignored'
    const job = parse(jobBody, readJson(raw), 'body') as z.output<typeof jobBody>
    // A pipeline may go on after its end, by a retry or a manual job: only what is said of a job is taken for its end.
    if (!TERMINAL.has(job.build_status)) return 'ignored'
    return { owner: job.project_id, within: [job.pipeline_id], job: job.build_id, conclusion: job.build_status, ownerField: 'project_id' }
  },
}

/** The MAC is over `<webhook-id>.<webhook-timestamp>.<body>`; several signatures are of a token that is being replaced. */
export const gitlabSignedHook: HookKind = {
  ...common,
  check(secret) {
    if (keyOf(secret).length !== 32)
      throw new CurfewError('malformed', 'is no signing token of GitLab (whsec_ and 32 bytes in base64); for a secret token say signed: false', {
        reason: 'secret_invalid',
      })
  },
  isAuthentic(req, raw, secret, now) {
    const id = singleHeader(req, 'webhook-id') ?? ''
    const at = singleHeader(req, 'webhook-timestamp') ?? ''
    const given = (singleHeader(req, 'webhook-signature') ?? '').split(' ').filter(s => s.startsWith('v1,'))
    const wanted = macOf(keyOf(secret), `${id}.${at}.`, raw)
    const isSigned = given.slice(0, 8).reduce((found, s) => isSame(Buffer.from(s.slice('v1,'.length), 'base64'), wanted) || found, false)
    if (!isSigned || !/^\d{1,12}$/.test(at)) return false
    demandFresh(at, now)
    return true
  },
}

export const gitlabTokenHook: HookKind = {
  ...common,
  isAuthentic: (req, _raw, secret) => isSame(singleHeader(req, 'x-gitlab-token') ?? '', secret),
}

const keyOf = (secret: string): Buffer => Buffer.from(/^whsec_([A-Za-z0-9+/]{43}=)$/.exec(secret)?.[1] ?? '', 'base64')
