/** Owns the text of SPIRE's configuration files, in HCL. */
import { join } from 'node:path'

export interface SpirePlace {
  readonly dir: string
  readonly trustDomain: string
  readonly ports: { readonly api: number; readonly bundle: number; readonly oidc: number }
  readonly agentSocket: string
  readonly serverSocket: string
  /** Without it, JWT-SVIDs have no `iss`. */
  readonly oidcIssuer: string | undefined
}

/** The short intervals are what makes a new entry usable after one second instead of five. */
export const serverConfig = (place: SpirePlace): string => `
server {
  bind_address = "127.0.0.1"
  bind_port = ${place.ports.api}
  socket_path = "${place.serverSocket}"
  data_dir = "${join(place.dir, 'server')}"
  trust_domain = "${place.trustDomain}"
  log_level = "INFO"
  ca_key_type = "ec-p256"
  default_jwt_svid_ttl = "5m"
  ${place.oidcIssuer ? `jwt_issuer = "${place.oidcIssuer}"` : ''}
  experimental { cache_reload_interval = "1s" }
  federation {
    bundle_endpoint {
      address = "127.0.0.1"
      port = ${place.ports.bundle}
      profile "https_spiffe" {}
    }
  }
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "${join(place.dir, 'server', 'datastore.sqlite3')}"
    }
  }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
`

export const agentConfig = (place: SpirePlace, bundlePem: string, joinToken: string): string => `
agent {
  server_address = "127.0.0.1"
  server_port = ${place.ports.api}
  socket_path = "${place.agentSocket}"
  data_dir = "${join(place.dir, 'agent')}"
  trust_domain = "${place.trustDomain}"
  trust_bundle_path = "${bundlePem}"
  join_token = "${joinToken}"
  log_level = "INFO"
  retry_bootstrap = false
  experimental { sync_interval = "1s" }
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
`

export const oidcConfig = (place: SpirePlace): string => `
domains = ["127.0.0.1", "localhost"]
insecure_addr = "127.0.0.1:${place.ports.oidc}"
allow_insecure_scheme = true
jwt_issuer = "${place.oidcIssuer}"
jwks_uri = "${place.oidcIssuer}/keys"
log_level = "info"
server_api {
  address = "unix://${place.serverSocket}"
  poll_interval = "1s"
}
`
