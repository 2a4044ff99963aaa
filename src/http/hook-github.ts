/** Owns reading the events of GitHub: `workflow_job` and `workflow_run`, signed without a time. */
import { z } from 'zod'
import { EVERY_JOB } from '../domain/run.js'
import { deliveryName, type HookKind, isSame, macOf, number, readJson, word } from './hook.js'
import { singleHeader } from './request.js'
import { parse } from './route.js'

const repository = z.object({ id: number, owner: z.object({ id: number }) })
const action = z.object({ action: z.string() })
const jobBody = z.object({
  repository,
  workflow_job: z.object({
    run_id: number,
    run_attempt: number,
    conclusion: word,
    // What OIDC carries as `check_run_id` is the last part of this URL; `workflow_job.id` is the same number in all that GitHub sends.
    check_run_url: z
      .string()
      .max(500)
      .regex(/\/check-runs\/\d{1,20}$/, 'must end in the id of a check run'),
  }),
})
const runBody = z.object({ repository, workflow_run: z.object({ id: number, run_attempt: number, conclusion: word }) })

export const githubHook: HookKind = {
  isAuthentic(req, raw, secret) {
    const given = /^sha256=([0-9a-f]{64})$/.exec(singleHeader(req, 'x-hub-signature-256') ?? '')?.[1] ?? ''
    return isSame(Buffer.from(given, 'hex'), macOf(secret, raw))
  },
  // Not covered by the MAC.
  deliveryOf: req => [parse(deliveryName, singleHeader(req, 'x-github-delivery'), 'X-GitHub-Delivery') as string],
  /** An event is its header *and* the member of its own name: one cannot pass for the other. */
  read(req, raw) {
    const event = singleHeader(req, 'x-github-event')
    if (event === 'ping') return 'ping'
    if (event !== 'workflow_job' && event !== 'workflow_run') return 'ignored'
    const json = readJson(raw)
    if (parse(action, json, 'body')?.action !== 'completed') return 'ignored'
    const ownerField = 'repository.owner.id'
    if (event === 'workflow_job') {
      const { repository: r, workflow_job: job } = parse(jobBody, json, 'body') as z.output<typeof jobBody>
      const checkRun = job.check_run_url.slice(job.check_run_url.lastIndexOf('/') + 1)
      return { owner: r.owner.id, within: [r.id, job.run_id, job.run_attempt], job: checkRun, conclusion: job.conclusion, ownerField }
    }
    const { repository: r, workflow_run: run } = parse(runBody, json, 'body') as z.output<typeof runBody>
    return { owner: r.owner.id, within: [r.id, run.id, run.run_attempt], job: EVERY_JOB, conclusion: run.conclusion, ownerField }
  },
}
