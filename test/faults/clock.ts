/** Owns a process whose clock is wrong: loaded before anything else of it, with how far it is ahead in CURFEW_AHEAD_MS. Timers and monotonic time stay right. */
const ahead = Number(process.env.CURFEW_AHEAD_MS ?? 0)
const Right = Date
const now = () => Right.now() + ahead

globalThis.Date = new Proxy(Right, {
  construct: (right, given, target) => Reflect.construct(right, given.length === 0 ? [now()] : given, target === globalThis.Date ? right : target),
  apply: () => new Right(now()).toString(),
  get: (right, key) => (key === 'now' ? now : Reflect.get(right, key)),
})
