/** Owns `curfew config`: what a process would run with, and whether it could. */
import { Command } from 'commander'
import { type LocalFlags, loadConfig, quietLog, withConfig } from './local.js'
import { type OutputFlags, withOutput } from './options.js'
import { type Io, plain, printer, table } from './output.js'

type Flags = LocalFlags & OutputFlags

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const config = new Command('config')
    .summary('show or check the configuration')
    .description('The configuration as a process would see it. Secrets are never shown.')
  const showing = config
    .command('show')
    .summary('every setting')
    .description('Shows every setting as it is in force; secrets stay [secret].')
    .option('--origin', 'where each comes from')
  withOutput(withConfig(showing))
  showing.addHelpText('after', '\nExample:\n  $ curfew config show --origin')
  showing.action(async (flags: Flags & { readonly origin?: boolean }) => {
    await show(flags, io)
    done(0)
  })
  const checking = config.command('check').summary('validate, and exit').description('Validates the configuration and its policies, and exits 0 or 2.')
  withOutput(withConfig(checking))
  checking.addHelpText('after', '\nExample:\n  $ curfew config check --config curfew.yaml')
  checking.action(async (flags: Flags) => {
    await check(flags, io)
    done(0)
  })
  return config
}

async function show(flags: Flags & { readonly origin?: boolean }, io: Io): Promise<void> {
  const print = printer(io, flags)
  const loaded = await loadConfig(flags, io)
  const { show: lines } = await import('../config.js')
  const settings = lines(loaded).map(line => {
    const cut = line.indexOf(' = ')
    const path = line.slice(0, cut)
    return { path, value: line.slice(cut + 3), origin: loaded.origins.get(path) ?? 'default' }
  })
  print.data(
    settings.map(s => ({ ...s, value: s.value === '[secret]' ? s.value : (JSON.parse(s.value) as unknown) })),
    () =>
      flags.origin
        ? table(
            ['setting', 'origin', 'value'],
            settings.map(s => [s.path, s.origin, s.value]),
          )
        : settings.map(s => plain(`${s.path} = ${s.value}`)).join('\n'),
    settings.map(s => s.path),
  )
}

async function check(flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const { config, path, warnings } = await loadConfig(flags, io)
  for (const warning of warnings) print.warn(`warn  ${warning}`)
  const { rules } = await checkPolicies(config, print)
  print.data({ path, valid: true, warnings, policies: rules }, () => '')
  print.say(`ok    ${path}: ${config.issuers.length} trust issuers, ${config.capabilities.length} capabilities, policies ${rules}`)
}

/** Compiles the policies as a process would at start. @returns their digest. */
export async function checkPolicies(config: Awaited<ReturnType<typeof loadConfig>>['config'], print: ReturnType<typeof printer>): Promise<{ rules: string }> {
  const [{ cedarPolicy }, { toCapabilities }] = await Promise.all([import('../policy/cedar.js'), import('../config.js')])
  const policy = await cedarPolicy({
    dir: config.policies.dir,
    capabilities: toCapabilities(config),
    issuers: config.issuers.map(i => i.name),
    genericClaims: config.issuers.flatMap(i => (i.kind === 'oidc' && i.profile === 'generic' ? [...i.identityClaims, ...i.attributeClaims] : [])),
    log: quietLog(print),
  })
  return { rules: policy.digest }
}
