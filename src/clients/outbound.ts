/** Owns the one guarded way out for fetching keys: an address checked and pinned, no redirect, a size, a deadline, JSON only. */
import { lookup as dnsLookup } from 'node:dns/promises'
import { BlockList, isIP } from 'node:net'
import { type PeerCertificate, checkServerIdentity as usualIdentity } from 'node:tls'
import { Agent, request } from 'undici'
import { untilAborted, within } from '../domain/deadline.js'
import { CurfewError } from '../domain/errors.js'
import { parseStrictBytes } from '../domain/json.js'

export interface OutboundOptions {
  /** Admits private addresses and http: only for issuers that an operator marked so. */
  readonly internal?: boolean
  readonly ca?: string
  /** For SVID-authenticated endpoints (`https_spiffe`): exactly this URI in the server's certificate, and no DNS name. */
  readonly spiffeId?: string
}

export interface Outbound {
  /** Throws `unavailable` with a reason; never quotes what was received. */
  getJson(url: string, options: OutboundOptions, signal: AbortSignal): Promise<unknown>
}

/** Bytes, milliseconds. */
const MAX_BODY = 102_400
const DEADLINE_MS = 3_000

const PRIVATE = new BlockList()
for (const [net, bits] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 3],
] as const)
  PRIVATE.addSubnet(net, bits, 'ipv4')
for (const [net, bits] of [
  ['::', 96],
  ['64:ff9b::', 96],
  ['64:ff9b:1::', 48],
  ['100::', 64],
  ['2001::', 23],
  ['2001:db8::', 32],
  ['2002::', 16],
  ['fc00::', 7],
  ['fe80::', 10],
  ['fec0::', 10],
  ['ff00::', 8],
] as const)
  PRIVATE.addSubnet(net, bits, 'ipv6')

/** True when an address is this host's, a neighbour's, or nobody's; IPv4 inside IPv6 is looked at as IPv4. */
export function isPrivate(address: string): boolean {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  const ip = mapped ?? address
  const family = isIP(ip)
  return family === 0 || PRIVATE.check(ip, family === 4 ? 'ipv4' : 'ipv6') || (family === 6 && /^::ffff:/i.test(ip))
}

const refuse = (reason: string, cause?: unknown) =>
  new CurfewError('unavailable', 'the keys of a trust issuer could not be fetched', { reason, retryAfterSeconds: 5 }, { cause })

export interface OutboundDeps {
  readonly lookup?: (host: string) => Promise<readonly { address: string; family: number }[]>
}

export function createOutbound(deps: OutboundDeps = {}): Outbound {
  const lookup = deps.lookup ?? (host => dnsLookup(host, { all: true, verbatim: true }))

  /** Resolved once, every answer checked, one pinned: a name that answers differently the second time gains nothing (H11). */
  async function pinned(host: string, internal: boolean): Promise<{ address: string; family: number }> {
    const bare = host.replace(/^\[|\]$/g, '')
    const answers = isIP(bare) ? [{ address: bare, family: isIP(bare) }] : await lookup(bare).catch(cause => Promise.reject(refuse('name_unresolved', cause)))
    const [first] = answers
    if (!first) throw refuse('name_unresolved')
    if (!internal && answers.some(a => isPrivate(a.address))) throw refuse('address_refused')
    return first
  }

  return {
    async getJson(text, options, signal) {
      const url = new URL(text)
      if (url.protocol !== 'https:' && !options.internal) throw refuse('https_required')
      if (url.username !== '' || url.password !== '') throw refuse('url_refused')
      // One deadline for everything, the name included: a resolver that does not answer must not hold the caller.
      const ends = within(DEADLINE_MS, signal)
      const { address, family } = await untilAborted(pinned(url.hostname, options.internal === true), ends, cause => refuse('unreachable', cause))
      const agent = new Agent({
        connect: {
          // undici asks for one answer or for all; both are the pinned one.
          lookup: (_host, o, done) => (o.all ? done(null, [{ address, family }]) : done(null, address, family)),
          timeout: DEADLINE_MS,
          ...(options.ca ? { ca: options.ca } : {}),
          ...(options.spiffeId
            ? { checkServerIdentity: (_host: string, cert: PeerCertificate) => spiffeIdentity(options.spiffeId as string, cert) }
            : { checkServerIdentity: usualIdentity }),
        },
        maxResponseSize: MAX_BODY,
        pipelining: 0,
      })
      try {
        return await fetchJson(url, agent, ends)
      } finally {
        // Not `close`: an endless answer would be waited for.
        void agent.destroy().catch(() => {})
      }
    },
  }
}

async function fetchJson(url: URL, agent: Agent, signal: AbortSignal): Promise<unknown> {
  try {
    const { statusCode, headers, body } = await request(url, {
      dispatcher: agent,
      method: 'GET',
      headers: { accept: 'application/json', 'accept-encoding': 'identity' },
      signal,
    })
    // A redirect is an answer of its own here, and not the one that was asked for (H12).
    if (statusCode !== 200) throw refuse(statusCode >= 300 && statusCode < 400 ? 'redirected' : 'status_unexpected')
    if (headers['content-encoding'] !== undefined) throw refuse('content_encoding')
    const chunks: Buffer[] = []
    let size = 0
    for await (const chunk of body) {
      size += (chunk as Buffer).length
      if (size > MAX_BODY) throw refuse('body_too_large')
      chunks.push(chunk as Buffer)
    }
    return parseStrictBytes(Buffer.concat(chunks), { maxDepth: 8, maxMembers: 4_096 })
  } catch (error) {
    if (error instanceof CurfewError) throw error.code === 'malformed' ? refuse('not_json') : error
    throw refuse((error as { code?: string }).code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE' ? 'body_too_large' : 'unreachable', error)
  }
}

/** SPIFFE federation, section 5.2.2: the endpoint shows an X509-SVID; its one URI SAN must be the expected id. */
function spiffeIdentity(expected: string, cert: PeerCertificate): Error | undefined {
  return cert.subjectaltname === `URI:${expected}` ? undefined : new Error('the endpoint has another SPIFFE ID')
}
