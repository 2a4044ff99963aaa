/** Owns `curfew receipt`: the evidence of a revocation, shown, kept, and checked again with the broker gone. */
import { Command } from 'commander'
import { CliError, EXIT, usage } from './exit.js'
import type { Broker } from './http.js'
import { connect, demandOperatorToken, type OperatorFlags, type OutputFlags, type ServerFlags, withOperator, withOutput, withServer } from './options.js'
import { type Io, type Printer, printer } from './output.js'
import type { Verified } from './receipt-file.js'

interface ShowFlags extends ServerFlags, OutputFlags, OperatorFlags {
  readonly save?: string
}
interface VerifyFlags extends OutputFlags {
  readonly keys?: string
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const receipt = new Command('receipt')
    .summary('the signed evidence of a revocation')
    .description('Receipts say what was refused, destroyed and probed, and what is exposed until when. They are signed.')
  const showing = receipt
    .command('show')
    .summary('what became of a revocation')
    .description('Shows the receipt of a revocation as of now, checks its signature, and remembers the keys of this server.')
    .argument('<id>', 'of the receipt (rcp_) or the revocation (rev_)')
    .option('--save <file>', 'keep it, with the keys that check it; what is there is not replaced')
  withOutput(withOperator(withServer(showing)))
  showing.addHelpText('after', '\nExample:\n  $ curfew receipt show rev_01kaf3q7v0m2x4t6w8y0a1b2c3 --save INC-204.json')
  showing.action(async (id: string, flags: ShowFlags) => {
    await show(id, flags, io)
    done(0)
  })
  const verifying = receipt
    .command('verify')
    .summary('check a kept receipt, offline')
    .description(
      'Checks the signature of a kept receipt; no broker is asked. Trust in its key comes from --keys, or from what was remembered when a receipt of that server was shown here. Exit 3: altered, or the key is known from the file alone.',
    )
    .argument('<file>', 'as `receipt show --save` wrote it')
    .option('--keys <file>', 'a JWK set that you trust: /v1/receipt-keys of the server')
  withOutput(verifying)
  verifying.addHelpText('after', '\nExample:\n  $ curfew receipt verify INC-204.json')
  verifying.action(async (file: string, flags: VerifyFlags) => done(await verify(file, flags, io)))
  return receipt
}

async function show(text: string, flags: ShowFlags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const id = text.toLowerCase()
  if (!/^(?:rcp|rev)_[0-9a-z]{26}$/.test(id)) throw usage('this is no id of a receipt or a revocation (rcp_…, rev_…)')
  const signal = new AbortController().signal
  const broker = await connect(flags, io)
  const token = await demandOperatorToken(flags, io, broker)
  const { textMember } = await import('./holder.js')
  const { body } = await broker.call({ method: 'GET', path: `/v1/receipts/${id}`, auth: { kind: 'operator', token } }, signal)
  const receipt = textMember(body, 'receipt')
  const { body: keys } = await broker.call({ method: 'GET', path: '/v1/receipt-keys', auth: { kind: 'none' } }, signal)
  const { thumbprintsOf, verifyReceipt } = await import('./receipt-file.js')
  const verified = await verifyReceipt(receipt, keys)
  // What is saved is what was shown; a receipt read once more would be of another moment.
  if (flags.save !== undefined) await save(flags.save, { receipt, keys })
  const trust = await pinned(verified, thumbprintsOf(keys), broker, io, print, signal)
  const { tellReceipt } = await import('./receipt-claims.js')
  print.data(
    { claims: verified.claims, receipt, key: { kid: verified.kid, thumbprint: verified.thumbprint } },
    () => tellReceipt(verified.claims, { 'signed by': `${verified.thumbprint} (${trust})` }),
    [verified.claims.jti],
  )
  if (flags.save !== undefined) print.say(`saved: curfew receipt verify ${flags.save}`)
}

async function save(path: string, value: unknown): Promise<void> {
  const [{ writePrivate }, { basename, dirname, resolve }] = await Promise.all([import('./state.js'), import('node:path')])
  const full = resolve(path)
  try {
    // Evidence is added to and never replaced.
    if (writePrivate(dirname(full), basename(full), value, { replace: false })) return
  } catch (cause) {
    throw new CliError(EXIT.usage, { code: 'usage', detail: `the receipt cannot be written: ${path}` }, { cause })
  }
  throw usage(`${path} is there already, and is not replaced`, 'save under another name')
}

/** Keys are remembered on first use, and after that only with one that was known: a server may rotate its keys, not change all of them unseen. */
async function pinned({ claims }: Verified, thumbprints: readonly string[], broker: Broker, io: Io, print: Printer, signal: AbortSignal): Promise<string> {
  const { stateIn } = await import('./state.js')
  const issuer = await broker.issuer(signal).catch(error => {
    if (error instanceof CliError) return null
    throw error
  })
  // Else any server could leave its keys under another's name.
  if (issuer !== claims.iss) {
    print.warn(`keys not remembered: the receipt is of ${claims.iss}, which the server asked is not`)
    return 'not remembered'
  }
  const state = stateIn(io.env)
  const known = state.pins(issuer)
  if (known.length > 0 && !known.some(k => thumbprints.includes(k))) {
    print.warn(`keys not remembered: ${issuer} has none of the keys that it had before; if that is right, remove ${state.pinPath(issuer)}`)
    return 'not the keys remembered for this server'
  }
  state.pin(issuer, thumbprints)
  return `remembered for ${issuer}`
}

async function verify(file: string, flags: VerifyFlags, io: Io): Promise<number> {
  const print = printer(io, flags)
  const [{ readSaved, readStrict, verifyReceipt }, { tellReceipt }, { stateIn }] = await Promise.all([
    import('./receipt-file.js'),
    import('./receipt-claims.js'),
    import('./state.js'),
  ])
  const saved = readSaved(file)
  const verified = await verifyReceipt(saved.receipt, flags.keys === undefined ? saved.keys : readStrict(flags.keys))
  const { claims, kid, thumbprint } = verified
  const known = stateIn(io.env).pins(claims.iss)
  const trust = flags.keys !== undefined ? 'keys' : known.includes(thumbprint) ? 'pinned' : 'file'
  const told = {
    keys: `key of ${flags.keys}`,
    pinned: `key remembered for ${claims.iss}`,
    file: known.length === 0 ? 'none: the key is known from the file alone' : `none: not a key remembered for ${claims.iss}`,
  }[trust]
  print.data(
    { verified: true, trusted: trust !== 'file', trust, key: { kid, thumbprint }, claims },
    () => tellReceipt(claims, { signature: 'ES256, curfew-receipt+jwt: holds', 'signed by': thumbprint, trust: told, 'issued by': claims.iss }),
    [claims.jti],
  )
  if (trust !== 'file') return EXIT.done
  print.warn(`the signature holds, but whoever wrote the file may have made the key: name keys that you trust with --keys`)
  return EXIT.refused
}
