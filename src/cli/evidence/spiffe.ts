/** Owns evidence of a workload of a SPIFFE trust domain: a JWT-SVID of our audience, from the agent on this machine. */
import { JWT, type Platform, shaped } from './source.js'

export const spiffe: Platform = {
  name: 'spiffe',
  needs: 'a SPIFFE agent on this machine, and its socket in SPIFFE_ENDPOINT_SOCKET',
  detect({ env }) {
    const endpoint = env.SPIFFE_ENDPOINT_SOCKET
    if (!endpoint) return null
    return {
      name: `SPIFFE Workload API ${endpoint}`,
      type: JWT,
      job: [],
      advice: {},
      async fresh(audience, signal) {
        const { fetchJwtSvid } = await import('./workload-api.js')
        return shaped(await fetchJwtSvid(endpoint, audience, signal), 'the answer of the SPIFFE agent')
      },
    }
  },
}
