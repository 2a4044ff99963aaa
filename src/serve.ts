/** Owns a running API: the public and the internal listener over a composed app, and the loops of every replica. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { App } from './compose.js'
import { scopeOf } from './config-schema.js'
import { CLIENT_METHODS, type ClientMethod } from './domain/client-methods.js'
import { CurfewError } from './domain/errors.js'
import { byBroker } from './domain/revocation.js'
import { type Replica, startReplica } from './feed/replica.js'
import { createApp } from './http/app.js'
import { createInternalApp, type Listener, listen } from './http/listen.js'
import type { Doors } from './http/route.js'
import { type Loops, startLoops } from './loops.js'
import type { Feed } from './ports.js'
import { readinessOf } from './readiness.js'

export interface Serving {
  readonly address: string
  readonly internal: string
  /** @param drainMs for so long it only says that it goes, and serves whoever has not heard: nobody is let in by the kernel and met by nobody (F41). */
  stop(drainMs?: number): Promise<void>
}

const CLIENT_METHOD_NAMES = Object.keys(CLIENT_METHODS) as ClientMethod[]

/** This replica's view of what is revoked: read by `seq`, hurried by the doorbell. */
export const feedOf = (app: App): Replica =>
  startReplica({
    revocations: app.store.revocations,
    guards: app.store.guards,
    clock: app.store.clock,
    pollMs: app.config.timers.pollMs,
    listen: onRing => app.doorbell.listen(onRing),
    onKeyRevoked: () => void app.signer.refresh().catch(error => app.log.error({ err: error }, 'the signing keys could not be refreshed')),
    log: app.log,
  })

export function doorsOf(app: App, feed: Feed): Doors {
  return {
    broker: app.broker,
    store: app.store,
    signer: app.signer,
    serverUrl: app.config.server.url,
    audiences: app.audiences,
    capabilities: [...app.deps.capabilities.values()],
    paramsOf: c => app.deps.engines.get(c.engine)?.takes?.(c.parameters) ?? {},
    clientMethods: CLIENT_METHOD_NAMES.filter(name => app.config.issuers.some(i => i.enabled && i.kind === CLIENT_METHODS[name].attestor)),
    signalSources: app.config.signals.sources,
    hooks: app.config.hooks.map(h => ({
      name: h.name,
      kind: h.kind === 'gitlab' && !h.signed ? 'gitlab-token' : h.kind,
      issuer: h.issuer,
      secret: h.secret,
      owners: scopeOf(h).ids,
    })),
    hookCounted: app.deps.meter.hook,
    nonces: app.deps.nonces,
    sealDigest: app.sealDigest,
    feed,
    readiness: () => readinessOf(app, feed),
    log: app.log,
  }
}

export async function serve(app: App): Promise<Serving> {
  const feed = feedOf(app)
  let isDraining = false
  const doors: Doors = { ...doorsOf(app, feed), readiness: () => readinessOf(app, feed, isDraining) }
  const api: Listener = await listen(createApp(doors), app.config.server.listen, app.config.server.maxConnections)
  const inner: Listener = await listen(
    createInternalApp(doors, () =>
      app.metrics.text(app.store, { keyAgeSeconds: app.signer.ageSeconds(), feed: { seq: feed.seq, staleMs: feed.staleMs(), followers: feed.followers } }),
    ),
    app.config.server.internal,
    100,
  )
  const loops: Loops = startLoops(app.broker, app.config.timers, app.log)
  app.log.info({ address: api.address, internal: inner.address, store: app.store.kind, policy: app.deps.policy.digest }, 'serving')
  return {
    address: api.address,
    internal: inner.address,
    async stop(drainMs = 0) {
      isDraining = true
      api.retire()
      if (drainMs > 0) {
        app.log.info({ drainMs }, 'draining')
        await sleep(drainMs)
      }
      // The followers first: a stream has no end that a listener could wait for.
      await feed.stop()
      await Promise.all([api.close(), loops.stop()])
      await inner.close()
    },
  }
}

/**
 * Reads the policy files again. The new set is in force for the next decision, or, when it does not validate, the old one stays and
 * everybody is told why.
 */
export async function reloadPolicies(app: App): Promise<void> {
  const told = (kind: 'policy.loaded' | 'policy.refused', reason: string | null, digest: string) =>
    app.store.audit.append({ kind, actor: byBroker('policy'), subject: digest, reason, requestId: null, data: {} })
  try {
    const digest = await app.deps.policy.reload()
    await told('policy.loaded', null, digest)
    app.log.info({ digest }, 'policies reloaded')
  } catch (error) {
    app.log.error({ err: error, digest: app.deps.policy.digest }, 'the policies on disk are refused; those in force stay')
    await told('policy.refused', error instanceof CurfewError ? (error.facts.reason ?? error.code) : 'failed', app.deps.policy.digest)
  }
}
