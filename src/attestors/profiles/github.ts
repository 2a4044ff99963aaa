/** Owns what GitHub Actions says of a job (standards.md 1.16): numeric ids decide, names are for people, `sub` is never parsed. */
import { githubRun } from '../../domain/run.js'
import { type Profile, refuse, required, text } from './profile.js'

/** Events that run code or data of strangers with the repository's own rights: only where the configuration names them (P4, T36). */
const ORDINARY = new Set(['push', 'schedule', 'workflow_dispatch', 'release', 'pull_request', 'merge_group', 'deployment', 'create', 'workflow_call'])

const CLAIMS = [
  'repository',
  'repository_owner',
  'repository_owner_id',
  'repository_visibility',
  'ref',
  'ref_type',
  'ref_protected',
  'event_name',
  'workflow_ref',
  'workflow_sha',
  'job_workflow_ref',
  'job_workflow_sha',
  'environment',
  'runner_environment',
  'actor',
  'actor_id',
  'run_id',
  'run_number',
  'run_attempt',
  'check_run_id',
  'head_ref',
  'base_ref',
  'sha',
  'enterprise_id',
]

export const github: Profile = {
  name: 'github',
  typAbsent: false,
  // Every token of GitHub carries the thumbprint of its certificate. It chooses nothing here: the key is found by `kid` alone.
  ignoredHeaders: ['x5t'],
  replay: () => 'single_use',
  normalise(payload, issuer) {
    const repository = required(payload, 'repository_id')
    if (!/^\d{1,20}$/.test(repository)) return refuse('claim_invalid', 'repository_id')
    // Code of a stranger with the repository's own name on it: refused as soon as the token says so (T36).
    const head = text(payload, 'head_repository_id')
    if (head !== null && head !== repository) return refuse('fork_refused', 'head_repository_id')
    const event = required(payload, 'event_name')
    if (!ORDINARY.has(event) && !issuer.allowEvents.includes(event)) return refuse('event_refused', 'event_name')
    const attributes: Record<string, string> = { repository_id: repository }
    for (const name of CLAIMS) {
      const value = text(payload, name)
      if (value !== null) attributes[name] = value
    }
    // A display name that any branch may write, emoji and all: shown when it is plain, and never a reason to refuse the job.
    const { workflow } = payload
    if (typeof workflow === 'string' && /^[\x20-\x7e]{1,512}$/.test(workflow)) attributes.workflow = workflow
    const said = (name: string) => attributes[name] ?? ''
    const run = { owner: said('repository_owner_id'), repository, run: said('run_id'), attempt: said('run_attempt'), job: said('check_run_id') }
    return { identity: `${issuer.name}:repository_id=${repository}`, attributes, run: run.run ? githubRun(issuer.name, run) : null }
  },
}
