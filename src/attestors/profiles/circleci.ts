/** Owns what CircleCI says of a job (standards.md 1.16): ids of organization and project, and nothing to a job that somebody has a shell in. */
import { ciProfile, UUID } from './ci.js'
import { refuse } from './profile.js'

/** `https://oidc.circleci.com/org/<organization id>`, and the same at a server of one's own. */
const ORGANIZATION = /\/org\/([^/]+)$/

export const circleci = ciProfile({
  name: 'circleci',
  typAbsent: true,
  ignoredHeaders: [],
  // Nameless, and of one second the same bytes: tied to the key of the job (standards.md 2.2.4).
  replay: () => 'bounded',
  claim: fact => `oidc.circleci.com/${fact.replaceAll('_', '-')}`,
  identity: ['org_id', 'project_id'],
  forms: { org_id: UUID, project_id: UUID, workflow_id: UUID, job_id: UUID, pipeline_id: UUID, pipeline_definition_id: UUID },
  run: { owner: 'project_id', within: ['workflow_id'], job: 'job_id', needs: 'job_id' },
  judge(said, _payload, issuer) {
    // Whoever re-ran it is in it, with the job's own rights (P11).
    if (said.ssh_rerun !== 'false') refuse('ssh_rerun_refused', 'oidc.circleci.com/ssh-rerun')
    // Says twice what it says once, or is not what it seems.
    const organization = ORGANIZATION.exec(issuer.issuer)?.[1]
    if (organization !== undefined && organization !== said.org_id) refuse('claim_mismatch', 'oidc.circleci.com/org-id')
  },
})
