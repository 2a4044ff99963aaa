/** Owns the settings of `curfew forward-auth`: names of the environment (the command line translates its flags into them), judged before anything listens. */
import { CurfewError } from './domain/errors.js'
import { looksLikeGuardKey } from './domain/operator-token.js'

export interface ForwardAuthSettings {
  readonly issuer: string
  readonly audience: string
  /** The audience's name at Curfew: what a proxy calls it, and who asks introspection. */
  readonly audienceName: string | null
  readonly audienceSecret: string | null
  readonly guardKey: string
  readonly listen: { readonly host: string; readonly port: number }
  readonly scopes: readonly string[]
  readonly proof: 'required' | 'if-bound' | 'off'
  readonly maxStaleMs: number
  readonly whenStale: 'refuse' | 'introspect'
  readonly feedUrls: readonly string[]
}

interface From {
  readonly env: Readonly<Record<string, string | undefined>>
  readonly readFile: (path: string) => string
}

const wrong = (name: string, says: string, next?: string): never => {
  throw new CurfewError('malformed', `${name} ${says}`, { reason: 'setting_invalid', field: name, ...(next === undefined ? {} : { next }) })
}

/** @throws CurfewError(malformed) that names the setting, and never its value. */
export function forwardAuthSettings({ env, readFile }: From): ForwardAuthSettings {
  const given = (name: string) => (env[name] === undefined || env[name] === '' ? null : (env[name] as string))
  const needed = (name: string, flag: string, what: string) => given(name) ?? wrong(name, `is not set: ${what}`, `set ${name}, or give ${flag}`)
  const secret = (name: string): string | null => {
    const [here, file] = [given(name), given(`${name}_FILE`)]
    if (here !== null && file !== null) return wrong(name, `and ${name}_FILE are both set: one of them`)
    if (file === null) return here
    let text = ''
    try {
      text = readFile(file).trim()
    } catch {
      return wrong(`${name}_FILE`, 'names a file that cannot be read')
    }
    return text === '' ? wrong(`${name}_FILE`, 'names a file that is empty') : text
  }
  const oneOf = <T extends string>(name: string, choices: readonly T[], otherwise: T): T => {
    const text = given(name) ?? otherwise
    return choices.find(c => c === text) ?? wrong(name, `must be one of ${choices.join(', ')}`)
  }

  const guardKey =
    secret('CURFEW_GUARD_KEY') ??
    wrong('CURFEW_GUARD_KEY', 'is not set: without it nobody tells what is revoked', 'curfew guard add NAME, then CURFEW_GUARD_KEY or CURFEW_GUARD_KEY_FILE')
  if (!looksLikeGuardKey(guardKey)) wrong('CURFEW_GUARD_KEY', 'is no guard key: it is damaged, or it is a token of another kind')
  const audienceName = given('CURFEW_AUDIENCE_NAME')
  const audienceSecret = secret('CURFEW_AUDIENCE_SECRET')
  const whenStale = oneOf('CURFEW_WHEN_STALE', ['refuse', 'introspect'], 'refuse')
  if (whenStale === 'introspect' && audienceName === null)
    wrong('CURFEW_AUDIENCE_NAME', 'is not set: introspection asks as the audience, by its name at Curfew')
  if (whenStale === 'introspect' && audienceSecret === null) wrong('CURFEW_AUDIENCE_SECRET', 'is not set: introspection asks with the secret of the audience')
  return {
    issuer: needed('CURFEW_ISSUER', '--issuer', 'the public URL of Curfew'),
    audience: needed('CURFEW_AUDIENCE', '--audience', 'the resource server behind the proxy, as it is registered at Curfew'),
    audienceName,
    audienceSecret,
    guardKey,
    listen: listenOf(given('CURFEW_LISTEN') ?? '127.0.0.1:8785'),
    scopes: (given('CURFEW_SCOPE') ?? '').split(/[\s,]+/).filter(s => s !== ''),
    proof: oneOf('CURFEW_PROOF', ['required', 'if-bound', 'off'], 'required'),
    maxStaleMs: staleOf(given('CURFEW_MAX_STALE') ?? '5s'),
    whenStale,
    feedUrls: (given('CURFEW_FEED_URLS') ?? '').split(/[\s,]+/).filter(s => s !== ''),
  }
}

function listenOf(text: string): { host: string; port: number } {
  const match = /^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):(\d{1,5})$/.exec(text)
  const port = Number(match?.[2])
  if (!match || port > 65_535) return wrong('CURFEW_LISTEN', 'must be HOST:PORT')
  return { host: (match[1] as string).replace(/^\[|\]$/g, ''), port }
}

/** As a guard takes it: from one second to ten. */
function staleOf(text: string): number {
  const match = /^(\d{1,5})(ms|s)$/.exec(text)
  const ms = Number(match?.[1]) * (match?.[2] === 's' ? 1000 : 1)
  return match && ms >= 1_000 && ms <= 10_000 ? ms : wrong('CURFEW_MAX_STALE', 'must be from 1s to 10s')
}
