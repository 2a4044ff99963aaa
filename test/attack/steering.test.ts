/** H29: what a broker in other hands could make a command do by the variables that it hands over: nothing. */
import { describe, expect, it } from 'vitest'
import { deliver } from '../../src/cli/deliver.js'
import type { Held, Issued } from '../../src/cli/holder.js'

const held = { task: { id: 'tsk_00000000000000000000000000' } } as Held
const handed = (secret: Record<string, string>) =>
  deliver({}, held, [{ credential: { id: 'crd_00000000000000000000000000', capability: 'db/orders-ro' }, secret } as unknown as Issued], { proofKey: false })
    .env

describe('H29 variables that steer what a command does', () => {
  it.each([
    ...['PATH', 'IFS', 'ENV', 'BASH_ENV', 'PROMPT_COMMAND', 'PS4', 'HOME', 'LD_PRELOAD', 'LD_LIBRARY_PATH', 'DYLD_INSERT_LIBRARIES', 'GCONV_PATH'],
    ...[
      'NODE_OPTIONS',
      'NODE_EXTRA_CA_CERTS',
      'NPM_CONFIG_REGISTRY',
      'PYTHONPATH',
      'PYTHONSTARTUP',
      'PERL5OPT',
      'RUBYOPT',
      'JAVA_TOOL_OPTIONS',
      '_JAVA_OPTIONS',
    ],
    ...[
      'GIT_SSH_COMMAND',
      'SSH_ASKPASS',
      'EDITOR',
      'PAGER',
      'LESSOPEN',
      'PSQLRC',
      'HTTPS_PROXY',
      'ALL_PROXY',
      'SSL_CERT_FILE',
      'CURL_HOME',
      'KUBECONFIG',
      'GOFLAGS',
    ],
    ...['CURFEW_URL', 'CURFEW_CONFIG', 'CURFEW_TOKEN', 'node_options\n', 'Path', 'X=1', 'A B', '', 'A'.repeat(65), 'É'],
  ])('%j is not handed over, and the command is not started', name => {
    expect(() => handed({ PGUSER: 'u', [name]: 'value-of-it' })).toThrow(/^a credential of db\/orders-ro would set "/)
    try {
      handed({ [name]: 'value-of-it' })
    } catch (error) {
      expect(JSON.stringify((error as { problem?: unknown }).problem)).not.toContain('value-of-it')
    }
  })

  it('the twin: what engines do hand over', () => {
    const names = [
      'PGHOST',
      'PGPASSWORD',
      'PGSSLMODE',
      'PGSSLROOTCERT',
      'VAULT_ADDR',
      'VAULT_TOKEN',
      'REDISCLI_AUTH',
      'AWS_ACCESS_KEY_ID',
      'GOOGLE_CREDENTIALS',
      'MYSQL_PWD',
    ]
    for (const name of names) expect(handed({ [name]: 'v' })[name]).toBe('v')
    expect(handed({ token: 't' }).CURFEW_TOKEN).toBe('t')
  })
})
