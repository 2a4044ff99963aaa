/** Owns what we ask of Vault: one identity a client, and the few paths that its policy allows. */
import { readFileSync } from 'node:fs'
import type { VaultAuth, VaultConfig } from '../config-schema.js'
import { CurfewError } from '../domain/errors.js'
import type { CredentialId } from '../domain/ids.js'
import { Secret } from '../domain/secret.js'
import { LIST_BYTES, SYNC_MS, secretsAt, type VaultSecrets } from './vault-secrets.js'
import { type CallOptions, createTransport, dataOf as data, type Transport, textOf as text, VaultError } from './vault-transport.js'

export { VaultError } from './vault-transport.js'

export interface IssuanceToken {
  readonly token: Secret
  readonly accessor: string
}

export interface AccessorInfo {
  readonly accessor: string
  readonly credential: CredentialId | null
  readonly createdAt: Date | null
}

export interface VaultClient extends VaultSecrets {
  /** An orphan token under the token role, good for the paths of one policy, dead after `ttlSeconds` unless renewed. */
  createIssuanceToken(
    ask: { credential: CredentialId; displayName: string; policy: string; ttlSeconds: number; maxTtlSeconds: number },
    signal: AbortSignal,
  ): Promise<IssuanceToken>
  renewAccessor(accessor: string, seconds: number, signal: AbortSignal): Promise<void>
  /** Idempotent: an accessor that is not there has been revoked. */
  revokeAccessor(accessor: string, signal: AbortSignal): Promise<void>
  /** Waits for the target; idempotent. */
  revokeLease(leaseId: string, signal: AbortSignal): Promise<void>
  leaseExists(leaseId: string, signal: AbortSignal): Promise<boolean>
  accessorExists(accessor: string, signal: AbortSignal): Promise<boolean>
  /** Of all leases whose id begins so, whole ids. */
  listLeases(prefix: string, signal: AbortSignal): Promise<readonly string[]>
  leaseIssuedAt(leaseId: string, signal: AbortSignal): Promise<Date | null>
  listAccessors(signal: AbortSignal): Promise<readonly string[]>
  accessor(accessor: string, signal: AbortSignal): Promise<AccessorInfo | null>
  role(mount: string, role: string, signal: AbortSignal): Promise<Readonly<Record<string, unknown>>>
  transit(
    mount: string,
    key: string,
  ): {
    encrypt(plain: Buffer, associated: string, signal: AbortSignal): Promise<string>
    decrypt(ciphertext: string, associated: string, signal: AbortSignal): Promise<Buffer>
    hmac(input: Buffer, signal: AbortSignal): Promise<string>
  }
  close(): Promise<void>
}

/** Logged in again when this part of the login's life has passed. */
const RENEW_AT = 0.7

export function createVault(
  config: VaultConfig,
  role: 'issuer' | 'revoker' | 'reconciler',
  deps: { log: { warn(fields: object, message: string): void } },
): VaultClient {
  const transport = createTransport({
    address: config.address,
    namespace: config.namespace,
    ...(config.caFile ? { ca: readFileSync(config.caFile, 'utf8') } : {}),
  })
  const auth = config[role]
  if (!auth) throw new CurfewError('malformed', `vault.${role} is not configured`, { reason: 'config_missing', field: `vault.${role}` })
  const login = createLogin(transport, auth)

  /** One repeat under a fresh login when ours was refused: it may have been revoked or run out (F28). */
  async function withLogin<T>(call: (token: string) => Promise<T>): Promise<T> {
    try {
      return await call(await login.token())
    } catch (error) {
      if (!(error instanceof VaultError) || error.outcome !== 'denied' || !login.renewable) throw error
      deps.log.warn({ role }, 'our Vault login was refused; logging in again')
      return call(await login.token(true))
    }
  }
  const write = (path: string, body: object, options: CallOptions) => withLogin(token => transport.write(path, body, { ...options, token }))
  const read = (path: string, options: CallOptions) => withLogin(token => transport.read(path, { ...options, token }))
  const list = (path: string, options: CallOptions) => withLogin(token => transport.list(path, { ...options, token }))

  async function unlessAbsent<T>(act: () => Promise<T>, absent: T): Promise<T> {
    try {
      return await act()
    } catch (error) {
      if (error instanceof VaultError && error.outcome === 'absent') return absent
      throw error
    }
  }
  /** Complete, or an error: what is missing in it is closed as lost and waited for no longer. */
  async function keysOf(path: string, options: CallOptions): Promise<readonly string[]> {
    const { keys } = data(await list(path, { ...options, maxBytes: LIST_BYTES, deadlineMs: SYNC_MS }))
    if (!Array.isArray(keys) || keys.some(k => typeof k !== 'string'))
      throw new VaultError('ambiguous', 200, 'LIST', `${options.template}, which holds no list of keys`)
    return keys as string[]
  }

  return {
    async createIssuanceToken(ask, signal) {
      const answer = (await write(
        `auth/token/create/${config.tokenRole}`,
        {
          ttl: `${ask.ttlSeconds}s`,
          explicit_max_ttl: `${ask.maxTtlSeconds}s`,
          renewable: true,
          policies: [ask.policy],
          no_default_policy: true,
          display_name: ask.displayName,
          meta: { credential_id: ask.credential, curfew: '1' },
        },
        { template: 'auth/token/create/<role>', signal },
      )) as { auth?: { client_token?: unknown; accessor?: unknown } } | null
      return { token: Secret.token(text(answer?.auth?.client_token, 'the issuance token')), accessor: text(answer?.auth?.accessor, 'the accessor') }
    },
    ...secretsAt(transport, write),
    async renewAccessor(accessor, seconds, signal) {
      await write('auth/token/renew-accessor', { accessor, increment: `${seconds}s` }, { template: 'auth/token/renew-accessor', signal })
    },
    async revokeAccessor(accessor, signal) {
      await unlessAbsent(
        () =>
          write(
            'auth/token/revoke-accessor',
            { accessor },
            { template: 'auth/token/revoke-accessor', absentWords: 'invalid accessor', deadlineMs: SYNC_MS, signal },
          ),
        null,
      )
    },
    async revokeLease(leaseId, signal) {
      await write('sys/leases/revoke', { lease_id: leaseId, sync: true }, { template: 'sys/leases/revoke', deadlineMs: SYNC_MS, signal })
    },
    leaseExists: (leaseId, signal) =>
      unlessAbsent(async () => {
        await write('sys/leases/lookup', { lease_id: leaseId }, { template: 'sys/leases/lookup', absentWords: 'invalid lease', signal })
        return true
      }, false),
    accessorExists: (accessor, signal) =>
      unlessAbsent(async () => {
        await write('auth/token/lookup-accessor', { accessor }, { template: 'auth/token/lookup-accessor', absentWords: 'invalid accessor', signal })
        return true
      }, false),
    async listLeases(prefix, signal) {
      const keys = await keysOf(`sys/leases/lookup/${prefix}`, { template: 'sys/leases/lookup/<prefix>', signal })
      return keys.filter(k => !k.endsWith('/')).map(k => `${prefix}/${k}`)
    },
    leaseIssuedAt: (leaseId, signal) =>
      unlessAbsent(async () => {
        const { issue_time } = data(
          await write('sys/leases/lookup', { lease_id: leaseId }, { template: 'sys/leases/lookup', absentWords: 'invalid lease', signal }),
        )
        return new Date(text(issue_time, 'the time of issue'))
      }, null),
    listAccessors: signal => keysOf('auth/token/accessors', { template: 'auth/token/accessors', signal }),
    accessor: (accessor, signal) =>
      unlessAbsent(async () => {
        const found = data(
          await write('auth/token/lookup-accessor', { accessor }, { template: 'auth/token/lookup-accessor', absentWords: 'invalid accessor', signal }),
        )
        const meta = (found.meta ?? {}) as { credential_id?: CredentialId; curfew?: string }
        const created = typeof found.creation_time === 'number' ? new Date(found.creation_time * 1000) : null
        return { accessor, credential: meta.curfew === '1' ? (meta.credential_id ?? null) : null, createdAt: created }
      }, null),
    role: async (mount, dbRole, signal) => data(await read(`${mount}/roles/${dbRole}`, { template: '<mount>/roles/<role>', signal })),
    transit: (mount, key) => ({
      async encrypt(plain, associated, signal) {
        const body = { plaintext: plain.toString('base64'), associated_data: Buffer.from(associated).toString('base64') }
        return text(data(await write(`${mount}/encrypt/${key}`, body, { template: '<transit>/encrypt/<key>', signal })).ciphertext, 'the ciphertext')
      },
      async decrypt(ciphertext, associated, signal) {
        const body = { ciphertext, associated_data: Buffer.from(associated).toString('base64') }
        return Buffer.from(
          text(data(await write(`${mount}/decrypt/${key}`, body, { template: '<transit>/decrypt/<key>', signal })).plaintext, 'the plaintext'),
          'base64',
        )
      },
      async hmac(input, signal) {
        const body = { input: input.toString('base64'), key_version: 1 }
        return text(data(await write(`${mount}/hmac/${key}/sha2-256`, body, { template: '<transit>/hmac/<key>', signal })).hmac, 'the hmac')
      },
    }),
    close: () => transport.close(),
  }
}

interface Login {
  /** False for a given token: logging in again would give the same one. */
  readonly renewable: boolean
  token(again?: boolean): Promise<string>
}

function createLogin(transport: Transport, auth: VaultAuth): Login {
  if (auth.method === 'token') return { renewable: false, token: async () => auth.token.reveal().token as string }
  return renewedLogin(transport, auth)
}

function renewedLogin(transport: Transport, auth: Exclude<VaultAuth, { method: 'token' }>): Login {
  let held: { token: string; until: number } | null = null
  let flight: Promise<string> | null = null

  async function login(): Promise<string> {
    const answer = (await transport.write(`auth/${auth.mount}/login`, bodyOf(auth), { template: 'auth/<mount>/login' })) as {
      auth?: { client_token?: unknown; lease_duration?: unknown }
    } | null
    const token = text(answer?.auth?.client_token, 'our login')
    held = { token, until: performance.now() + Number(answer?.auth?.lease_duration ?? 60) * 1000 * RENEW_AT }
    return token
  }
  return {
    renewable: true,
    token(again = false) {
      if (!again && held && performance.now() < held.until) return Promise.resolve(held.token)
      flight ??= login().finally(() => {
        flight = null
      })
      return flight
    },
  }
}

function bodyOf(auth: Exclude<VaultAuth, { method: 'token' }>): object {
  switch (auth.method) {
    case 'approle':
      return { role_id: auth.roleId, secret_id: auth.secretId.reveal().token }
    case 'kubernetes':
    case 'jwt':
      // Read each time: the kubelet and CI providers replace it.
      return { role: auth.role, jwt: readFileSync(auth.tokenFile, 'utf8').trim() }
    default:
      return auth satisfies never
  }
}
