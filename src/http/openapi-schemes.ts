/** Owns how the description names the ways to show who one is (docs/http-api.md, Who may call). */
import type { Scheme } from './declaration.js'

export const SCHEMES = {
  taskToken: {
    type: 'http',
    scheme: 'DPoP',
    description: 'A task token, of the task that the path names, with a proof of its key (RFC 9449 section 7.1).',
  },
  proof: {
    type: 'apiKey',
    in: 'header',
    name: 'DPoP',
    description:
      'A DPoP proof (RFC 9449): a JWS of type dpop+jwt with `htm`, `htu` (the configured public URL and the path), `iat`, `jti`, and `ath` beside a token. Good once.',
  },
  operator: {
    type: 'http',
    scheme: 'bearer',
    description: 'curfew_operator_…, made by `curfew operator add`. The right that is named must belong to its role.',
  },
  guard: { type: 'http', scheme: 'bearer', description: 'curfew_guard_…, made by `curfew guard add`.' },
  resourceServer: { type: 'http', scheme: 'basic', description: 'The name of an audience and its secret, plain or form-encoded (RFC 6749 section 2.3.1).' },
  signalSource: {
    type: 'apiKey',
    in: 'header',
    name: 'Curfew-Signature',
    description: 't=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<raw body>">, by the source that Curfew-Source names.',
  },
  hookGithub: {
    type: 'apiKey',
    in: 'header',
    name: 'X-Hub-Signature-256',
    description: 'Of a source of kind github: sha256=<hex HMAC-SHA256 of the raw body>.',
  },
  hookGitlab: {
    type: 'apiKey',
    in: 'header',
    name: 'webhook-signature',
    description: 'Of a source of kind gitlab (Standard Webhooks): v1,<base64 HMAC-SHA256 of "<webhook-id>.<webhook-timestamp>.<raw body>">.',
  },
  hookGitlabToken: {
    type: 'apiKey',
    in: 'header',
    name: 'X-Gitlab-Token',
    description: 'Of a source of kind gitlab that does not sign: the secret itself.',
  },
  hookBuildkite: {
    type: 'apiKey',
    in: 'header',
    name: 'X-Buildkite-Signature',
    description: 'Of a source of kind buildkite: timestamp=<unix seconds>,signature=<hex HMAC-SHA256 of "<timestamp>.<raw body>">.',
  },
  tokenUnderTest: {
    type: 'http',
    scheme: 'bearer',
    description: 'The token that a client showed to the proxy, with its own scheme (Bearer or DPoP) and proof.',
  },
} as const satisfies Record<Scheme, unknown>
