/** Owns what Buildkite says of a job (standards.md 1.16): the ids of organization and pipeline, which a job has to ask for, since their slugs are given out again. */
import { ciProfile, NUMBER, UUID } from './ci.js'

const ASK = 'ask for it: buildkite-agent oidc request-token --claim organization_id,pipeline_id'

export const buildkite = ciProfile({
  name: 'buildkite',
  typAbsent: true,
  ignoredHeaders: [],
  // Made at every call, and nameless: two of the same second are the same bytes, so that they are tied to the key of the job instead.
  replay: payload => (payload.jti === undefined ? 'bounded' : 'single_use'),
  claim: fact => fact,
  missing: { organization_id: ASK, pipeline_id: ASK },
  identity: ['organization_id', 'pipeline_id'],
  forms: { organization_id: UUID, pipeline_id: UUID, job_id: UUID, build_id: UUID, build_number: NUMBER },
  run: { owner: 'pipeline_id', within: ['build_number'], job: 'job_id', needs: 'job_id' },
  judge: () => {},
})
