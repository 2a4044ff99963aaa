/** Owns `curfew whoami`: what this workload is to the broker, as far as the broker verified it. */
import { Command } from 'commander'
import type { Described } from './described.js'
import type { EvidenceFlags } from './evidence/find.js'
import { EXIT } from './exit.js'
import { connect, evidence, type OutputFlags, type ServerFlags, withEvidence, withOutput, withServer } from './options.js'
import { card, duration, type Io, plain, printer } from './output.js'

interface Flags extends ServerFlags, EvidenceFlags, OutputFlags {}

const USE: Readonly<Record<string, string>> = {
  reusable: 'may be shown again',
  unused: 'not used yet',
  used: 'used already: a new one is needed',
  bound: "tied to this job's key",
  bound_elsewhere: 'tied to another key: it was copied, or this is not the user or the home folder that used it first',
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const whoami = new Command('whoami')
    .summary('what I am to the broker: evidence, identity, attributes, clock')
    .description('Shows what the broker believes of this workload after verifying its evidence. Nothing is issued or used up.')
  withOutput(withEvidence(withServer(whoami)))
  whoami.addHelpText('after', '\nExample:\n  $ curfew whoami --json | jq .attributes')
  return whoami.action(async (flags: Flags) => {
    await act(flags, io)
    done(EXIT.done)
  })
}

async function act(flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const broker = await connect(flags, io)
  const source = await evidence(flags, io, broker)
  const [{ describe }, { stateIn }] = await Promise.all([import('./described.js'), import('./state.js')])
  const key = await stateIn(io.env).jobKey(source.job)
  const described = await describe(broker, { source, auth: { kind: 'proof', key } }, new AbortController().signal)
  const { evidence: seen, aheadMs, uncertainMs } = described
  print.data(
    { ...seen, source: source.name, server: broker.url, clock: { ahead_ms: aheadMs, uncertain_ms: uncertainMs } },
    () => table(described, source.name, source.job.length > 0),
    [seen.identity],
  )
  // Proofs carry this machine's time (RFC 9449 section 11.1): beyond a minute they are refused.
  if (Math.abs(aheadMs) > 30_000 + uncertainMs) print.warn(`set this machine's clock: it is ${clock(described)}`)
}

function table(d: Described, source: string, isJobs: boolean): string {
  const { evidence: e } = d
  const left = (Date.parse(e.expires_at) - Date.parse(e.issued_at)) / 1000 - e.age_seconds
  const head = card({
    'you are': e.identity,
    source,
    issuer: `${e.issuer} (profile ${e.profile}, strength ${e.strength} of 3)`,
    owner: e.owner,
    evidence: `${duration(e.age_seconds)} old, ends in ${duration(left)}, ${USE[e.use] ?? e.use}`,
    run: e.run,
    key: e.jkt === null ? null : `${e.jkt}${isJobs ? " (this job's)" : ' (made for this command)'}`,
    clock: clock(d),
  })
  const attributes = Object.entries(e.attributes).map(([name, value]) => `  ${plain(name)}  ${plain(Array.isArray(value) ? value.join(', ') : String(value))}`)
  return attributes.length === 0 ? head : `${head}\nattributes that policy sees\n${attributes.join('\n')}`
}

function clock({ aheadMs, uncertainMs }: Described): string {
  const off = Math.abs(aheadMs)
  if (off <= uncertainMs) return `as the server's, within ${uncertainMs} ms`
  return `${off < 2_000 ? `${off} ms` : duration(off / 1000)} ${aheadMs > 0 ? 'ahead of' : 'behind'} the server's`
}
