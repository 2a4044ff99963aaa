/** Owns evidence in GitLab CI: one token for the job, which its definition asks for by name. */
import { fromEnv } from './given.js'
import { ID_TOKEN, missing, type Platform } from './source.js'

const VARIABLE = 'CURFEW_ID_TOKEN'

export const gitlab: Platform = {
  name: 'gitlab',
  needs: 'a job of GitLab CI with  id_tokens: { CURFEW_ID_TOKEN: … }',
  detect({ env, audience }) {
    if (env.GITLAB_CI !== 'true') return null
    const asked = `id_tokens: { ${VARIABLE}: { aud: '${audience}' } }`
    if (!env[VARIABLE]) return missing('this job has no id token', `add to the job:  ${asked}`)
    return {
      ...fromEnv(VARIABLE, env),
      name: `GitLab CI (${VARIABLE})`,
      type: ID_TOKEN,
      advice: {
        audience_mismatch: `the id token is for another audience; set in the job:  ${asked}`,
        second_key:
          'GitLab gives a job one id token, which its first key binds: run its commands as one user with one home folder, or one `curfew run` around them',
        evidence_stale: "GitLab makes the id token when the job begins: ask early in the job, or have the capability's maxEvidenceAgeSeconds raised",
        life_too_long: "the id token lives as long as the job's timeout: have the issuer's maxLifeSeconds raised to it, or set a shorter  timeout:  in the job",
        fork_refused: 'a merge request of a fork may not ask: a member runs the pipeline for its branch in the project itself',
        event_refused: 'pipelines of this source (CI_PIPELINE_SOURCE) may not ask, unless they are named under allowEvents',
      },
    }
  },
}
