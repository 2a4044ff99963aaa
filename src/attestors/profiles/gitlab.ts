/** Owns what GitLab CI says of a job (standards.md 1.16): numeric ids decide, `sub` is never parsed, and code of a fork asks for nothing. */
import { ciProfile, NUMBER } from './ci.js'
import { refuse } from './profile.js'

/** Ways to start a pipeline that lie with members of the project. What comes from outside or from another's policy only where the configuration names it (P4). */
const ORDINARY = new Set(['push', 'web', 'webide', 'schedule', 'api', 'trigger', 'pipeline', 'parent_pipeline', 'merge_request_event'])

export const gitlab = ciProfile({
  name: 'gitlab',
  ignoredHeaders: [],
  // One token for all commands of a job, made when it begins (standards.md 2.2.4).
  replay: () => 'bounded',
  claim: fact => fact,
  identity: ['project_id'],
  forms: { project_id: NUMBER, namespace_id: NUMBER, pipeline_id: NUMBER, job_id: NUMBER, job_project_id: NUMBER },
  run: { owner: 'project_id', within: ['pipeline_id'], job: 'job_id', needs: 'job_id' },
  judge(said, _payload, issuer) {
    // In the merge request of a fork `project_*` is the fork and `job_project_*` where its code runs (P8).
    if (said.job_project_id !== undefined && said.job_project_id !== said.project_id) refuse('fork_refused', 'job_project_id')
    const source = said.pipeline_source as string
    if (!ORDINARY.has(source) && !issuer.allowEvents.includes(source)) refuse('event_refused', 'pipeline_source')
  },
})
