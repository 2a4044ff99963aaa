/** Owns evidence in CircleCI: a token of our audience, made by the program that every job has; the one in the environment is for all and sundry. */
import { askProgram } from './ask-program.js'
import { ID_TOKEN, missing, type Platform, shaped } from './source.js'

export const circleci: Platform = {
  name: 'circleci',
  needs: 'a job of CircleCI, which has CIRCLE_OIDC_TOKEN_V2 and the program circleci',
  detect({ env }) {
    if (env.CIRCLECI !== 'true') return null
    const own = ['CIRCLE_OIDC_TOKEN_V2', 'CIRCLE_OIDC_TOKEN'].find(name => env[name])
    if (own === undefined)
      return missing(
        'CircleCI gave this job no OIDC token',
        'builds of forks get none, unless  Project settings > Advanced > Pass secrets to builds from forked pull requests  is on',
      )
    return {
      name: 'CircleCI (circleci run oidc get)',
      type: ID_TOKEN,
      job: [own],
      advice: {
        ssh_rerun_refused: 'a job that was re-run with SSH may not ask: choose  Rerun workflow from start',
        second_key: 'run the commands of the job as one user with one home folder, or one `curfew run` around them',
      },
      fresh: async (audience, signal) =>
        shaped(
          await askProgram('circleci', ['run', 'oidc', 'get', '--claims', JSON.stringify({ aud: audience })], {
            env,
            signal,
            next: `${own} is for CircleCI's default audience and is not accepted; run the command in a step of the job, where  circleci run oidc get  makes one for us`,
          }),
          'the answer of circleci run oidc get',
        ),
    }
  },
}
