/** Owns `curfew forward-auth`: a guard beside a proxy, started as a process of its own. It is told by its environment alone, so flags become names there. */
import { Command, Option } from 'commander'
import { startEntry } from './entries.js'
import type { Io } from './output.js'

/** The key itself is no flag: command lines are seen by everybody on the host. */
const NAMES = {
  issuer: 'CURFEW_ISSUER',
  audience: 'CURFEW_AUDIENCE',
  audienceName: 'CURFEW_AUDIENCE_NAME',
  guardKeyFile: 'CURFEW_GUARD_KEY_FILE',
  listen: 'CURFEW_LISTEN',
  scope: 'CURFEW_SCOPE',
  proof: 'CURFEW_PROOF',
  maxStale: 'CURFEW_MAX_STALE',
  whenStale: 'CURFEW_WHEN_STALE',
} as const

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  return new Command('forward-auth')
    .summary('a guard beside a proxy, for servers that cannot be changed')
    .description(
      'Answers nginx, Traefik, Caddy and Envoy by the feed, asking nobody. Needs CURFEW_GUARD_KEY or its file; signals and exit code pass through. Health is at /healthz.',
    )
    .option('--issuer <url>', 'public URL of Curfew (CURFEW_ISSUER)')
    .option('--audience <uri>', 'the server behind the proxy, as registered at Curfew (CURFEW_AUDIENCE)')
    .option('--audience-name <name>', 'its name at Curfew, where the proxy asks by it (CURFEW_AUDIENCE_NAME)')
    .option('--guard-key-file <file>', 'the key of `curfew guard add` (CURFEW_GUARD_KEY_FILE)')
    .option('--listen <host:port>', 'where it listens (CURFEW_LISTEN, default 127.0.0.1:8785)')
    .option('--scope <scopes>', 'needed of every request (CURFEW_SCOPE)')
    .addOption(new Option('--proof <rule>', 'of the holder (CURFEW_PROOF, default required)').choices(['required', 'if-bound', 'off']))
    .option('--max-stale <time>', 'how old the feed may be, 1s to 10s (CURFEW_MAX_STALE, default 5s)')
    .addOption(
      new Option('--when-stale <act>', 'then (CURFEW_WHEN_STALE, default refuse; introspect needs CURFEW_AUDIENCE_SECRET)').choices(['refuse', 'introspect']),
    )
    .addHelpText('after', '\nExample:\n  $ curfew forward-auth --issuer https://curfew.example --audience https://orders.example/ --guard-key-file guard.key')
    .action(async (flags: Partial<Record<keyof typeof NAMES, string>>) => {
      const env: Record<string, string | undefined> = { ...io.env }
      for (const [flag, name] of Object.entries(NAMES)) {
        const value = flags[flag as keyof typeof NAMES]
        if (value === undefined) continue
        env[name] = value
        // The flag speaks for both ways to give the key.
        if (flag === 'guardKeyFile') delete env.CURFEW_GUARD_KEY
      }
      done(await startEntry('forward-auth', [], { ...io, env }))
    })
}
