/** Owns what every entry does before anything else: prototypes that nobody extends, no inspector by signal, no file that others may read. */

const BUILT_IN: readonly object[] = [
  ...[Object, Array, Function, String, Number, Boolean, Symbol, BigInt, Map, Set, WeakMap, WeakSet, Promise, RegExp, Date, Error, TypeError, RangeError],
  ...[Uint8Array, ArrayBuffer, DataView, URL, URLSearchParams],
].map(builtIn => builtIn.prototype)

/**
 * Safe to call twice. Measured with every library of the house: `freeze` breaks express, node-vault and bullmq; forbidding additions and
 * removing the `__proto__` accessor (what `--disable-proto=delete` does) break none, and additions are what pollution needs (H20).
 */
export function harden(): void {
  Reflect.deleteProperty(Object.prototype, '__proto__')
  for (const prototype of [...BUILT_IN, Object.getPrototypeOf(Uint8Array.prototype) as object, JSON, Math, Reflect]) Object.preventExtensions(prototype)
  // Node opens its inspector on SIGUSR1 for whoever may signal us, and 20 has no flag against it: a handler of our own takes its place (K12).
  if (process.listenerCount('SIGUSR1') === 0) process.on('SIGUSR1', () => {})
  // Crash reports and cores hold memory, and with it secrets (K6).
  if (process.report) Object.assign(process.report, { reportOnFatalError: false, reportOnSignal: false, reportOnUncaughtException: false })
  process.umask(0o077)
}
