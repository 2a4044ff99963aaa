/** Owns evidence in Bitbucket Pipelines: one token for the step, for the audiences that the step lists. */
import { fromEnv } from './given.js'
import { ID_TOKEN, missing, type Platform } from './source.js'

const VARIABLE = 'BITBUCKET_STEP_OIDC_TOKEN'

export const bitbucket: Platform = {
  name: 'bitbucket',
  needs: 'a step of Bitbucket Pipelines with  oidc: { audiences: […] }',
  detect({ env, audience }) {
    if (!env.BITBUCKET_BUILD_NUMBER) return null
    const asked = `oidc: { audiences: ['${audience}'] }`
    if (!env[VARIABLE]) return missing('this step has no OIDC token', `add to the step:  ${asked}`)
    return {
      ...fromEnv(VARIABLE, env),
      name: `Bitbucket Pipelines (${VARIABLE})`,
      type: ID_TOKEN,
      advice: {
        audience_mismatch: `the token is for other audiences; set in the step:  ${asked}`,
        replayed: "a step has one token for all its commands: the issuer's entry in the configuration says  replay: bounded",
        second_key: 'run the commands of the step as one user with one home folder, or one `curfew run` around them',
      },
    }
  },
}
