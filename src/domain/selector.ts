/** Owns how a selector is written outside (docs/http-api.md, Selectors): the same in answers and in signed receipts. */
import type { FeedEntry, Selector } from './revocation.js'
import type { Where } from './where.js'

export function written(selector: Selector): Readonly<Record<string, unknown>> {
  if (selector.kind === 'where') return attributes(selector.where)
  const cut = 'issuedBefore' in selector && selector.issuedBefore ? { issued_before: selector.issuedBefore.toISOString() } : {}
  return { [selector.kind]: selector.kind === 'all' ? true : selector.key, ...cut }
}

/** An entry of the feed, for those who follow it. */
export const writtenEntry = (e: FeedEntry) => ({
  kind: e.kind,
  key: e.key,
  ...(e.issuedBefore ? { issued_before: e.issuedBefore.toISOString() } : {}),
  until: e.until.toISOString(),
})

const attributes = ({ issuedAfter, issuedBefore, repositoryId, workflowRef, workflowSha, runId, labels, ...same }: Where) => ({
  ...same,
  ...(repositoryId === undefined ? {} : { repository_id: repositoryId }),
  ...(workflowRef === undefined ? {} : { workflow_ref: workflowRef }),
  ...(workflowSha === undefined ? {} : { workflow_sha: workflowSha }),
  ...(runId === undefined ? {} : { run_id: runId }),
  ...(labels === undefined ? {} : { label: labels }),
  ...(issuedAfter ? { issued_after: issuedAfter.toISOString() } : {}),
  ...(issuedBefore ? { issued_before: issuedBefore.toISOString() } : {}),
})
