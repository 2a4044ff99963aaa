/** Owns evidence in Azure Pipelines: the pipeline's own token, whose audience nobody can choose. */
import { within } from '../../domain/deadline.js'
import { ID_TOKEN, missing, type Platform, shaped, unavailable } from './source.js'

const API_VERSION = '7.1-preview.1'
/** What every such token is for. */
const AUDIENCE = 'api://AzureADTokenExchange'

export const azure: Platform = {
  name: 'azure',
  needs: 'a job of Azure Pipelines with  env: { SYSTEM_ACCESSTOKEN: $(System.AccessToken) }',
  detect({ env }) {
    if (env.TF_BUILD !== 'True') return null
    const { SYSTEM_OIDCREQUESTURI: uri, SYSTEM_ACCESSTOKEN: access } = env
    if (!access) return missing('this step may not ask for a token', 'map it in the step:  env: { SYSTEM_ACCESSTOKEN: $(System.AccessToken) }')
    if (!uri || !URL.canParse(uri))
      return missing('this agent offers no OIDC tokens (SYSTEM_OIDCREQUESTURI)', 'update the agent, or name the evidence: --id-token-env')
    return {
      name: 'Azure Pipelines',
      type: ID_TOKEN,
      job: [],
      variables: ['SYSTEM_OIDCREQUESTURI', 'SYSTEM_ACCESSTOKEN'],
      advice: { audience_mismatch: `tokens of Azure Pipelines are for ${AUDIENCE}: the issuer's entry in the configuration says  audience: ${AUDIENCE}` },
      async fresh(_audience, signal) {
        const url = new URL(uri)
        url.searchParams.set('api-version', API_VERSION)
        let response: Response
        try {
          response = await fetch(url, {
            method: 'POST',
            headers: { Authorization: `Bearer ${access}`, 'Content-Type': 'application/json', Accept: 'application/json' },
            redirect: 'error',
            signal: within(10_000, signal),
          })
        } catch (error) {
          if (signal.aborted) throw signal.reason
          throw unavailable('the token service of Azure Pipelines cannot be reached', undefined, error)
        }
        if (response.ok) return shaped(((await response.json()) as { oidcToken?: string }).oidcToken ?? '', 'the answer of Azure Pipelines')
        await response.body?.cancel()
        throw unavailable(`Azure Pipelines refused a token (${response.status})`, 'check that the job may use System.AccessToken')
      },
    }
  },
}
