/** Owns evidence in a pod: a projected service account token with our audience, where it is mounted by convention. */
import { existsSync } from 'node:fs'
import { fromFile } from './given.js'
import type { Platform } from './source.js'

export const KUBERNETES_FILE = '/var/run/secrets/curfew/token'

export const kubernetes: Platform = {
  name: 'kubernetes',
  needs: `a pod with a projected volume:  sources: [{ serviceAccountToken: { path: token, audience: … } }]  mounted at ${KUBERNETES_FILE.replace('/token', '')}`,
  detect({ kubernetesFile, audience }) {
    // A pod without it is the rule, not a fault: jobs of CI providers run in pods.
    if (!existsSync(kubernetesFile)) return null
    return {
      ...fromFile(kubernetesFile),
      name: `Kubernetes projected token ${kubernetesFile}`,
      advice: { audience_mismatch: `the token is for another audience; set in the volume:  serviceAccountToken: { path: token, audience: '${audience}' }` },
    }
  },
}
