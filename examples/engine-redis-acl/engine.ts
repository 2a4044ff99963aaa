/** Owns an engine that anybody could have written: a Redis user that lives as long as a task (docs/engines.md). Public names only. */
import { randomBytes } from 'node:crypto'
import { type CredentialEngine, CurfewError, dashed, defineEngine, type Grant, type Handle, type Probe, Secret } from 'curfew/engine'
import { Redis } from 'ioredis'

interface Parameters {
  /** `orders:*` */
  readonly keys: readonly string[]
  /** `+get`, `+@read`: what is not here is not permitted. */
  readonly commands: readonly string[]
}

const KIND = 'redis-acl'
const KEYS = /^[A-Za-z0-9:_*?.-]{1,100}$/
const COMMANDS = /^\+(?!@(?:all|admin|dangerous)$|acl\b|config\b)@?[a-z|-]{1,40}$/
/** A command that did not answer by then has not been sent or is never obeyed: our connection is gone. Milliseconds. */
const COMMAND_MS = 3_000

function check(parameters: unknown): Parameters {
  const { keys, commands, ...rest } = (parameters ?? {}) as Record<string, unknown>
  const refuse = (field: string, reason: string) => {
    throw new CurfewError('malformed', 'the redis-acl engine cannot work with it', { reason, field: `parameters.${field}` })
  }
  for (const name of Object.keys(rest)) refuse(name, 'unknown_field')
  const areAll = (list: unknown, shape: RegExp) => Array.isArray(list) && list.length > 0 && list.every(x => typeof x === 'string' && shape.test(x))
  if (!areAll(keys, KEYS)) refuse('keys', 'invalid_field')
  if (!areAll(commands, COMMANDS)) refuse('commands', 'invalid_field')
  return { keys, commands } as Parameters
}

export function redisAclEngine(redis: Redis, at: { host: string; port: number }, now: () => Date): CredentialEngine {
  /** Redis's own words hold rules and names: they stay in the cause, which is only logged. */
  async function ask<T>(step: string, ...command: [string, ...string[]]): Promise<T> {
    try {
      return (await redis.call(...command)) as T
    } catch (cause) {
      throw new CurfewError('engine_failed', `the Redis user could not be ${step}`, { reason: 'redis_failed', retryAfterSeconds: 1 }, { cause })
    }
  }
  const userOf = (handle: Handle) => String(handle.user)

  return {
    kind: KIND,
    revocation: 'backend',
    local: false,
    check: parameters => void check(parameters),

    // The name is ours to choose, so that nothing need be asked: from here on a row leads to whatever `mint` makes.
    prepare: async (grant: Grant) => ({ user: `curfew-${dashed(grant.id)}` }),

    async mint(grant, handle) {
      const { keys, commands } = check(grant.terms.capability.parameters)
      const [user, password] = [userOf(handle as Handle), randomBytes(24).toString('base64url')]
      await ask('made', 'ACL', 'SETUSER', user, 'reset', 'on', `>${password}`, ...keys.map(k => `~${k}`), ...commands)
      const fields = { REDIS_HOST: at.host, REDIS_PORT: String(at.port), REDIS_USERNAME: user, REDIS_PASSWORD: password }
      return { secret: new Secret(fields, 'REDIS_PASSWORD'), handle: { made: 1 }, expiresAt: null, kid: null }
    },

    async destroy({ handle }) {
      if (!handle) return
      const user = userOf(handle)
      if ((await ask('ended', 'ACL', 'GETUSER', user)) === null) return
      // The door first: a client that comes back between the kill and the end would otherwise be let in again.
      await ask('ended', 'ACL', 'SETUSER', user, 'off')
      await ask('ended', 'CLIENT', 'KILL', 'USER', user)
      await ask('ended', 'ACL', 'DELUSER', user)
    },

    async probe({ handle, deadlineAt }): Promise<Probe> {
      // Nothing was recorded, so nothing was made.
      if (!handle) return { outcome: 'dead', looked: ['row'], detail: null }
      const looked = ['user', 'connections']
      if ((await ask('probed', 'ACL', 'GETUSER', userOf(handle))) !== null) return { outcome: 'alive', looked, detail: 'the user is still there' }
      const clients = await ask<string>('probed', 'CLIENT', 'LIST')
      if (clients.split('\n').some(line => line.includes(` user=${userOf(handle)} `)))
        return { outcome: 'alive', looked, detail: 'a connection is still there' }
      // What never said that it was made may be in the making: it is ended once more when that can no longer be.
      if (handle.made === undefined && now().getTime() < deadlineAt.getTime() + COMMAND_MS)
        return { outcome: 'waiting', looked, detail: 'it may have been in the making when it was ended' }
      return { outcome: 'dead', looked, detail: null }
    },
  }
}

export default defineEngine({
  kind: KIND,
  create(settings, { secrets, clock, log }) {
    const { host, port, ...rest } = settings
    if (typeof host !== 'string' || typeof port !== 'number' || Object.keys(rest).length > 0 || !secrets.admin)
      throw new CurfewError('malformed', 'redis-acl needs settings.host, settings.port and secrets.admin, and nothing else', { field: 'settings' })
    const redis = new Redis(secrets.admin.reveal().token as string, { commandTimeout: COMMAND_MS, maxRetriesPerRequest: 1, enableOfflineQueue: false })
    redis.on('error', err => log.warn({ err }, 'the Redis of redis-acl does not answer'))
    return Object.assign(
      redisAclEngine(redis, { host, port }, () => clock.now()),
      { close: async () => void redis.disconnect() },
    )
  },
})
