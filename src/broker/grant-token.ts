/** Owns the grant token: what the holder of a task gives to a child, once, in a token class of its own. */
import { CurfewError } from '../domain/errors.js'
import { type Id, isId, type TaskId } from '../domain/ids.js'
import { inspect, type JwsProfile } from '../domain/jws.js'
import { Secret } from '../domain/secret.js'
import { GRANT_NAMESPACE, type Mark } from '../domain/workload.js'
import { readAddressedToken } from './addressed-token.js'
import type { BrokerDeps } from './deps.js'

/** Signed by the keys of task tokens and told apart by its type: neither passes for the other (T69). */
export const GRANT_TYP = 'curfew-grant+jwt'
const PROFILE: JwsProfile = { algorithms: ['ES256'], types: [GRANT_TYP] }

/** Who may open the child: at least one of the two is named, so that a stolen grant is of no use. */
export interface Recipient {
  readonly identity: string | null
  /** RFC 7638 thumbprint of its proof key. */
  readonly jkt: string | null
}

export interface GrantedChild {
  readonly parent: TaskId
  readonly capabilities: readonly string[]
  readonly to: Recipient
  /** The child's longest life, from its opening. Null: as long as the parent. */
  readonly lifeSeconds: number | null
  /** The only purpose that the child may have. Null: its own. */
  readonly purpose: string | null
}

export async function signGrant(deps: BrokerDeps, id: Id<'grant'>, child: GrantedChild, issuedAt: number, expiresAt: number): Promise<Secret> {
  const { to } = child
  const claims = {
    iss: deps.serverUrl,
    aud: deps.serverUrl,
    jti: id,
    iat: issuedAt,
    exp: expiresAt,
    task: child.parent,
    capabilities: [...child.capabilities],
    // RFC 8693 section 4.4, and RFC 7800.
    ...(to.identity === null ? {} : { may_act: { sub: to.identity } }),
    ...(to.jkt === null ? {} : { cnf: { jkt: to.jkt } }),
    ...(child.lifeSeconds === null ? {} : { life_seconds: child.lifeSeconds }),
    ...(child.purpose === null ? {} : { purpose: child.purpose }),
  }
  return Secret.token((await deps.signer.sign('task', GRANT_TYP, claims, 'ES256')).token)
}

/** By its unverified type alone: which reader a subject token goes to. Whether it is a grant of ours, `readGrant` says. */
export function looksLikeGrant(token: string): boolean {
  try {
    inspect(token, PROFILE)
    return true
  } catch (error) {
    if (error instanceof CurfewError) return false
    throw error
  }
}

/** Verifies signature, class, issuer, audience and time. Whether it was used, and whether the task above is open, the store says. */
export async function readGrant(deps: BrokerDeps, token: string): Promise<GrantedChild & { readonly mark: Mark }> {
  const refuse = (reason: string) => new CurfewError('attestation_refused', 'this is no grant of this broker', { reason, field: 'parent_grant' })
  const payload = await readAddressedToken(deps, token, PROFILE, refuse)
  const { jti, task, capabilities, life_seconds: life, purpose, may_act: mayAct, cnf } = payload as Record<string, unknown>
  const to = { identity: textOr((mayAct as { sub?: unknown } | undefined)?.sub), jkt: textOr((cnf as { jkt?: unknown } | undefined)?.jkt) }
  if (!isId('grant', jti) || !isId('task', task) || !Array.isArray(capabilities) || (to.identity === null && to.jkt === null)) throw refuse('claim_invalid')
  return {
    parent: task,
    capabilities: capabilities as string[],
    to,
    lifeSeconds: typeof life === 'number' ? life : null,
    purpose: textOr(purpose),
    mark: { namespace: GRANT_NAMESPACE, id: jti, until: new Date(payload.exp * 1000) },
  }
}

const textOr = (value: unknown): string | null => (typeof value === 'string' ? value : null)
