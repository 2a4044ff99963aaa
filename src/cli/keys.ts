/** Owns `curfew keys`: which keys sign, and the next ones. */
import { Command, Option } from 'commander'
import type { KeyClass } from '../domain/signing-key.js'
import type { KeyView } from '../signers/keys.js'
import { type LocalFlags, loadConfig, localContext, openLocal, withConfig } from './local.js'
import { type OutputFlags, withOutput } from './options.js'
import { duration, type Io, printer, table } from './output.js'

type Flags = LocalFlags & OutputFlags
interface RotateFlags extends Flags {
  readonly class?: KeyClass
  readonly now?: boolean
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const keys = new Command('keys')
    .summary('list or rotate signing keys')
    .description('Works on the store itself: whoever may read the configuration may do this.')
  const listing = keys.command('list').summary('all keys').description('Lists signing keys: current, next, and retired ones whose last token may live.')
  withOutput(withConfig(listing))
  listing.addHelpText('after', '\nExample:\n  $ curfew keys list')
  listing.action(async (flags: Flags) => {
    await list(flags, io)
    done(0)
  })
  const rotating = keys
    .command('rotate')
    .summary('make the next keys')
    .description('Makes the next key of every kind and publishes it; it signs once every verifier can know it. What is under way is not started twice.')
    .addOption(new Option('--class <class>', 'only keys for these tokens').choices(['access', 'task', 'receipt']))
    .option('--now', 'sign at once: for a stolen key; verifiers that cache our keys refuse for some minutes')
  withOutput(withConfig(rotating))
  rotating.addHelpText('after', '\nExample:\n  $ curfew keys rotate')
  rotating.action(async (flags: RotateFlags) => {
    await rotate(flags, io)
    done(0)
  })
  return keys
}

async function list(flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const { config } = await loadConfig(flags, io)
  const local = await openLocal(config, print)
  try {
    const { listKeys } = await import('../signers/keys.js')
    const rows = await local.store.keys.list()
    shown(listKeys({ list: () => rows }), local.store.clock.now(), print)
  } finally {
    await local.close()
  }
}

async function rotate(flags: RotateFlags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const { config } = await loadConfig(flags, io)
  const local = await openLocal(config, print)
  try {
    const [{ retention }, { openRing }, { rotateKeys }] = await Promise.all([
      import('../signers/configured.js'),
      import('../signers/key-ring.js'),
      import('../signers/keys.js'),
    ])
    const signer = await openRing({
      keys: local.store.keys,
      clock: local.store.clock,
      wrapper: local.wrapper,
      publishAheadSeconds: config.signer.publishAheadSeconds,
      retainSeconds: retention(config),
      refreshMs: 0,
    })
    const made = await rotateKeys(signer, localContext(), {
      ...(flags.class === undefined ? {} : { keyClass: flags.class }),
      ...(flags.now ? { now: true } : {}),
    })
    signer.close()
    const now = local.store.clock.now()
    shown(made, now, print)
    const waits = Math.max(0, ...made.map(k => (k.activatesAt.getTime() - now.getTime()) / 1000))
    print.say(waits > 0 ? `published; they sign in ${duration(waits)}, as soon as a serving process sees that it is time` : 'they sign from now on')
  } finally {
    await local.close()
  }
}

function shown(keys: readonly KeyView[], now: Date, print: ReturnType<typeof printer>): void {
  const age = (k: KeyView) => Math.max(0, (now.getTime() - k.createdAt.getTime()) / 1000)
  print.data(
    keys.map(k => ({
      kid: k.kid,
      class: k.keyClass,
      alg: k.alg,
      state: k.state,
      created_at: k.createdAt.toISOString(),
      activates_at: k.activatesAt.toISOString(),
      retires_at: k.retiresAt?.toISOString() ?? null,
    })),
    () =>
      keys.length === 0
        ? ''
        : table(
            ['kid', 'class', 'alg', 'state', 'age', 'signs from', 'published until'],
            keys.map(k => [k.kid, k.keyClass, k.alg, k.state, duration(age(k)), k.activatesAt.toISOString(), k.retiresAt?.toISOString()]),
          ),
    keys.map(k => k.kid),
  )
  if (keys.length === 0) print.say('none yet: the first serving process makes them')
}
