/** Owns a house that trusts all CI providers, and their jobs: each a token as its provider documents it, on the main branch of acme/orders. */
import type { JWTPayload } from 'jose'
import { CIRCLECI_ORG, type CiProvider, ciClaims } from '../src/dev/ci-tokens.js'
import { GITHUB, type House, makeHouse, SERVER } from './house.js'

export const ISSUERS: Readonly<Record<CiProvider, string>> = {
  github: GITHUB,
  gitlab: 'https://gitlab.com',
  buildkite: 'https://agent.buildkite.com',
  circleci: `https://oidc.circleci.com/org/${CIRCLECI_ORG}`,
}

const PINS: Readonly<Record<CiProvider, Record<string, string[]>>> = {
  github: { repository_owner_id: ['123456'] },
  gitlab: { namespace_id: ['72', '73'] },
  buildkite: { organization_id: ['0184990a-477b-4fa8-9968-496074483c77'] },
  circleci: {},
}

export const issuerEntry = (provider: CiProvider, more: object = {}) => ({
  ...{ name: provider, kind: 'oidc', profile: provider, issuer: ISSUERS[provider], keys: { file: 'github.jwks' }, algs: ['RS256'] },
  ...{ pin: PINS[provider], ...more },
})

const AGENTS = { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] }

const WHO: Readonly<Record<CiProvider, string>> = {
  github: 'context has github && context.github.repository_id == "456789" && context.github.ref == "refs/heads/main"',
  gitlab:
    'context has gitlab && context.gitlab.project_id == "20" && context.gitlab.ref_path == "refs/heads/main" && context.gitlab has ref_protected && context.gitlab.ref_protected == "true"',
  buildkite: 'context has buildkite && context.buildkite.pipeline_id == "0184990a-4782-42b5-afc1-16715b10b1f0" && context.buildkite.build_branch == "main"',
  circleci:
    'context has circleci && context.circleci.project_id == "3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c" && context.circleci has vcs_origin && context.circleci.vcs_origin == "github.com/acme/orders" && context.circleci has vcs_ref && context.circleci.vcs_ref == "refs/heads/main"',
}

/** The rightful job of each provider may use this capability. */
export const rulesFor = (capability: string, providers: readonly CiProvider[] = ['github', 'gitlab', 'buildkite', 'circleci']): string =>
  providers
    .map(
      provider => `@id("${provider}-${capability.replaceAll(/[^a-z]/g, '-')}")
permit (principal, action == Action::"issue", resource == Capability::"${capability}") when { context.issuer == "${provider}" && ${WHO[provider]} };
`,
    )
    .join('')

export const ciHouse = (
  options: {
    policies?: string
    more?: Record<string, unknown>
    issuers?: Partial<Record<CiProvider, object>>
    capabilities?: Record<string, unknown>[]
    secrets?: Record<string, string>
  } = {},
): Promise<House> =>
  makeHouse({
    capabilities: options.capabilities ?? [],
    secrets: options.secrets ?? {},
    policies: options.policies ?? ['demo/orders-ro', 'demo/orders-bearer', 'demo/orders-db'].map(c => rulesFor(c)).join(''),
    more: { issuers: [...(Object.keys(ISSUERS) as CiProvider[]).map(p => issuerEntry(p, options.issuers?.[p])), AGENTS], ...options.more },
  })

/** @param claims what a test changes; undefined takes one away. */
export const ciToken = (house: House, provider: CiProvider, claims: JWTPayload = {}): Promise<string> =>
  house.github.mint({ ...ciClaims(provider, ISSUERS[provider], SERVER, house.now()), ...claims })
