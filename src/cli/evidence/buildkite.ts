/** Owns evidence in Buildkite: the agent is asked for a token of our audience, with the ids that its slugs do not replace. */
import { askProgram } from './ask-program.js'
import { ID_TOKEN, missing, type Platform, shaped } from './source.js'

const CLAIMS = 'organization_id,pipeline_id'

export const buildkite: Platform = {
  name: 'buildkite',
  needs: 'a job of a Buildkite agent, with buildkite-agent on its PATH',
  detect({ env }) {
    if (env.BUILDKITE !== 'true') return null
    if (!env.BUILDKITE_JOB_ID || !env.BUILDKITE_AGENT_ACCESS_TOKEN)
      return missing(
        'this command has no BUILDKITE_JOB_ID or BUILDKITE_AGENT_ACCESS_TOKEN',
        'pass the environment of the job on (docker plugin:  propagate-environment: true  and  mount-buildkite-agent: true )',
      )
    return {
      name: 'Buildkite (buildkite-agent oidc request-token)',
      type: ID_TOKEN,
      job: ['BUILDKITE_JOB_ID', 'BUILDKITE_AGENT_ACCESS_TOKEN'],
      // What buildkite-agent asks with, also for artifacts and meta-data: a command that needs those keeps it by --keep-evidence.
      variables: ['BUILDKITE_AGENT_ACCESS_TOKEN'],
      advice: {
        claim_missing: `the agent left out what it was asked for: update buildkite-agent, then  buildkite-agent oidc request-token --claim ${CLAIMS}`,
        second_key: 'run the commands of the job as one user with one home folder, or one `curfew run` around them',
      },
      fresh: async (audience, signal) =>
        shaped(
          await askProgram('buildkite-agent', ['oidc', 'request-token', '--audience', audience, '--claim', CLAIMS], {
            env,
            signal,
            next: 'run the command where the agent runs, or mount it (docker plugin:  mount-buildkite-agent: true )',
          }),
          'the answer of buildkite-agent',
        ),
    }
  },
}
