/** Owns what every entry does before anything else: prototypes that nobody extends, no inspector by signal, no file that others may read. */
export function harden(): void {
  // Measured: `freeze` breaks express and bullmq, forbidding additions does not, and additions are what pollution needs (H20).
  for (const prototype of [Object.prototype, Array.prototype, Function.prototype, String.prototype, Number.prototype, Boolean.prototype]) Object.preventExtensions(prototype)
  // Node opens its inspector on SIGUSR1 for whoever may signal us; a handler of our own takes its place (K12).
  process.on('SIGUSR1', () => {})
  process.umask(0o077)
}
