/** Owns evidence in GitHub Actions, Gitea and Forgejo: a fresh token for our audience at every request. */
import { setTimeout as sleep } from 'node:timers/promises'
import { within } from '../../domain/deadline.js'
import { CliError } from '../exit.js'
import { type EvidenceSource, ID_TOKEN, missing, type Platform, shaped, unavailable } from './source.js'

export const github: Platform = {
  name: 'github',
  needs: 'a job of GitHub Actions with  permissions: { id-token: write }',
  detect({ env }) {
    const { ACTIONS_ID_TOKEN_REQUEST_URL: url, ACTIONS_ID_TOKEN_REQUEST_TOKEN: token } = env
    if (url && token) return fromRunner(url, token)
    if (env.GITHUB_ACTIONS !== 'true') return null
    // The one line that a workflow's log highlights (ux.md 2.1).
    return missing('this job may not ask for an id token', 'add to the job:  permissions: { id-token: write, contents: read }', true)
  },
}

function fromRunner(requestUrl: string, requestToken: string): EvidenceSource {
  return {
    name: 'GitHub Actions',
    type: ID_TOKEN,
    job: [],
    variables: ['ACTIONS_ID_TOKEN_REQUEST_URL', 'ACTIONS_ID_TOKEN_REQUEST_TOKEN'],
    advice: { event_refused: 'this event may not ask: start the workflow by push or workflow_dispatch, or have the event named under allowEvents' },
    async fresh(audience, signal) {
      const url = new URL(requestUrl)
      url.searchParams.set('audience', audience)
      for (let attempt = 0; ; attempt++) {
        try {
          const response = await fetch(url, {
            headers: { Authorization: `bearer ${requestToken}`, Accept: 'application/json' },
            redirect: 'error',
            signal: within(10_000, signal),
          })
          if (response.ok) return shaped(((await response.json()) as { value?: string }).value ?? '', "the runner's answer")
          await response.body?.cancel()
          if (response.status < 500 && response.status !== 429)
            throw unavailable(`the runner refused an id token (${response.status})`, 'check permissions: id-token: write')
          if (attempt >= 3) throw unavailable(`the runner's token service failed (${response.status})`)
        } catch (error) {
          if (error instanceof CliError) throw error
          if (signal.aborted) throw signal.reason
          if (attempt >= 3) throw unavailable("the runner's token service cannot be reached", undefined, error)
        }
        await sleep(Math.random() * 300 * 2 ** attempt, undefined, { signal })
      }
    },
  }
}
