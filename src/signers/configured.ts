/** Owns what a configuration says of the signing keys: what keeps them shut, and how long a retired one is still needed. Asked by the servers and by `curfew keys` alike. */
import type { Config } from '../config-schema.js'
import type { DataKeyWrapper } from './envelope.js'

export interface OpenWrapper {
  readonly wrapper: DataKeyWrapper
  /** Gives back the connection that a wrapper elsewhere needs. */
  close(): Promise<void>
}

/** The longest that a token of ours may live (the schema's ceiling), and so a retired key be needed. Seconds. */
const LONGEST_TOKEN = 43_200

/** Evidence is read long after: ten years, in seconds. */
const RECEIPTS_ARE_READ = 315_360_000

export const retention = (config: Config) => ({ access: LONGEST_TOKEN, task: config.tasks.maxLifeSeconds, receipt: RECEIPTS_ARE_READ })

export async function wrapperOf(config: Config, log: { warn(fields: object, message: string): void }): Promise<OpenWrapper> {
  switch (config.signer.kind) {
    case 'sealed':
      return { wrapper: (await import('./sealed.js')).masterKeyWrapper(config.signer.masterKey), close: async () => {} }
    case 'transit': {
      if (!config.vault) throw new TypeError('the schema demands vault for transit')
      const [{ createVault }, { transitWrapper }] = await Promise.all([import('../clients/vault.js'), import('./transit.js')])
      const vault = createVault(config.vault, 'issuer', { log })
      return { wrapper: transitWrapper(vault.transit(config.signer.mount, config.signer.key)), close: () => vault.close() }
    }
    default:
      return config.signer satisfies never
  }
}
