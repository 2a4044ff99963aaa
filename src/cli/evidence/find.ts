/** Owns where a workload's evidence comes from: what the caller names, else what the place offers where the command runs (ux.md 2.1). */
import { CliError, usage } from '../exit.js'
import { azure } from './azure.js'
import { bitbucket } from './bitbucket.js'
import { buildkite } from './buildkite.js'
import { circleci } from './circleci.js'
import { github } from './github.js'
import { gitlab } from './gitlab.js'
import { fromAgent, fromEnv, fromFile } from './given.js'
import { KUBERNETES_FILE, kubernetes } from './kubernetes.js'
import { type EvidenceSource, missing, type Platform, type Surroundings } from './source.js'
import { spiffe } from './spiffe.js'

export interface EvidenceFlags {
  readonly idTokenFile?: string | undefined
  readonly idTokenEnv?: string | undefined
  readonly attestor?: string | undefined
  readonly agent?: string | undefined
  readonly agentKey?: string | undefined
}

/** What is looked at, and what `curfew dev` left for this user. */
export interface Around extends Partial<Surroundings> {
  readonly env: Surroundings['env']
  readonly dev?: { readonly agent?: string | undefined; readonly agentKey?: string | undefined }
}

/** In the order in which they are looked for. */
const PLATFORMS: readonly Platform[] = [github, gitlab, buildkite, circleci, azure, bitbucket, kubernetes, spiffe]

export function findEvidence(flags: EvidenceFlags, { dev, ...here }: Around): EvidenceSource {
  const around: Surroundings = { audience: 'https://curfew.example', kubernetesFile: KUBERNETES_FILE, ...here }
  const { env } = around
  const named = [flags.idTokenFile, flags.idTokenEnv, flags.agent, flags.attestor].filter(flag => flag !== undefined)
  if (named.length > 1) throw usage('name one source of evidence: --id-token-file, --id-token-env, --attestor or --agent')
  if (flags.agentKey !== undefined && flags.agent === undefined && !env.CURFEW_AGENT) throw usage('--agent-key needs --agent ISSUER/NAME')
  if (flags.idTokenFile !== undefined) return fromFile(flags.idTokenFile)
  if (flags.idTokenEnv !== undefined) return fromEnv(flags.idTokenEnv, env)
  if (flags.agent !== undefined) return fromAgent(flags.agent, flags.agentKey ?? env.CURFEW_AGENT_KEY)
  if (flags.attestor !== undefined) return fromPlatform(flags.attestor, around)

  // In a job of GitLab it is that job's own, with what there is to say about it.
  if (env.CURFEW_ID_TOKEN && env.GITLAB_CI !== 'true') return fromEnv('CURFEW_ID_TOKEN', env)
  if (env.CURFEW_ID_TOKEN_FILE) return fromFile(env.CURFEW_ID_TOKEN_FILE)
  let lacking: CliError | null = null
  for (const platform of PLATFORMS) {
    const found = platform.detect(around)
    // A job of one provider may run in a pod or beside an agent that offers more.
    if (found instanceof CliError) lacking ??= found
    else if (found) return found
  }
  if (env.CURFEW_AGENT) return fromAgent(env.CURFEW_AGENT, flags.agentKey ?? env.CURFEW_AGENT_KEY)
  if (dev?.agent !== undefined) return fromAgent(dev.agent, dev.agentKey)
  throw (
    lacking ??
    missing('nothing here says what this workload is', 'name its evidence: --id-token-file FILE, CURFEW_ID_TOKEN, or --agent ISSUER/NAME --agent-key FILE')
  )
}

function fromPlatform(name: string, around: Surroundings): EvidenceSource {
  const platform = PLATFORMS.find(p => p.name === name)
  if (!platform) throw usage(`--attestor is one of ${PLATFORMS.map(p => p.name).join(', ')}`)
  const found = platform.detect(around)
  if (found instanceof CliError) throw found
  if (found) return found
  throw missing(`this is no place of --attestor ${name}`, `it needs ${platform.needs}`)
}
