/** Owns what a cluster says of a projected service account token: the uid decides, since names are reused (P12). */
import { type Profile, refuse, required, text } from './profile.js'

type Claims = Readonly<Record<string, unknown>>

const object = (value: unknown): Claims => (typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Claims) : {})

/** RFC 1123 names, as the API server enforces them: rules match them by patterns that must not cross `:` or `/` (T32). */
function demandName(value: string, claim: string): void {
  if (!/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(value)) refuse('claim_invalid', `kubernetes.io.${claim}`)
}

export const kubernetes: Profile = {
  name: 'kubernetes',
  // The API server signs with `alg` and `kid` only.
  typAbsent: true,
  ignoredHeaders: [],
  // One token for all processes of a pod, refreshed by the kubelet (standards.md 2.2.4).
  replay: () => 'reusable',
  normalise(payload, issuer) {
    const claims = object(payload['kubernetes.io'])
    const account = object(claims.serviceaccount)
    const uid = required(account, 'uid')
    const namespace = required(claims, 'namespace')
    const name = required(account, 'name')
    demandName(namespace, 'namespace')
    demandName(name, 'serviceaccount.name')
    // Says twice what it says once, or is not what it seems.
    if (payload.sub !== `system:serviceaccount:${namespace}:${name}`) return refuse('claim_mismatch', 'sub')
    const attributes: Record<string, string> = { namespace, serviceaccount: name, serviceaccount_uid: uid }
    for (const part of ['pod', 'node']) {
      for (const member of ['name', 'uid']) {
        const value = text(object(claims[part]), member)
        if (value !== null && member === 'name') demandName(value, `${part}.name`)
        if (value !== null) attributes[member === 'name' ? part : `${part}_uid`] = value
      }
    }
    return { identity: `${issuer.name}:${uid}`, attributes, run: attributes.pod_uid ? `${issuer.name}:pod:${attributes.pod_uid}` : null }
  },
}
