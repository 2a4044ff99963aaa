/** Owns what GitHub Actions says of a job (standards.md 1.16): numeric ids decide, names are for people, `sub` is never parsed. */
import { ciProfile } from './ci.js'
import { refuse, text } from './profile.js'

/** Events that run code or data of strangers with the repository's own rights: only where the configuration names them (P4, T36). */
const ORDINARY = new Set(['push', 'schedule', 'workflow_dispatch', 'release', 'pull_request', 'merge_group', 'deployment', 'create', 'workflow_call'])

export const github = ciProfile({
  name: 'github',
  // Every token of GitHub carries the thumbprint of its certificate. It chooses nothing here: the key is found by `kid` alone.
  ignoredHeaders: ['x5t'],
  replay: () => 'single_use',
  claim: fact => fact,
  identity: ['repository_id'],
  forms: { repository_id: /^\d{1,20}$/ },
  run: { owner: 'repository_owner_id', within: ['repository_id', 'run_id', 'run_attempt'], job: 'check_run_id', needs: 'run_id' },
  // Any branch may write it, emoji and all.
  display: ['workflow'],
  judge(said, payload, issuer) {
    // Code of a stranger with the repository's own name on it: refused as soon as the token says so (T36).
    const head = text(payload, 'head_repository_id')
    if (head !== null && head !== said.repository_id) refuse('fork_refused', 'head_repository_id')
    const event = said.event_name as string
    if (!ORDINARY.has(event) && !issuer.allowEvents.includes(event)) refuse('event_refused', 'event_name')
  },
})
