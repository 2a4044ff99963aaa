/** Owns the places where a fault run may stop the process: empty in production, armed only under the test condition of package.json `imports`. */

/** The numbered steps of both walks (security.md 3.3, 3.4). */
export const FAILPOINTS = [
  'issue.3',
  'issue.4a',
  'issue.4b',
  'issue.4c',
  'issue.5a',
  'issue.5b',
  'issue.6',
  'revoke.1',
  'revoke.2',
  'revoke.3a',
  'revoke.3b',
  'revoke.3c',
  'revoke.4',
] as const
export type Failpoint = (typeof FAILPOINTS)[number]

export async function fp(_at: Failpoint): Promise<void> {}
