/** Owns the policies of a local world: the shipped schema beside the world's own rules, and the rule for the job that the built-in issuer speaks of. */
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { repository } from './find.js'

/** A push to main of the repository that `issuer.ts` names, by its immutable id. */
export const ciRule = (id: string, capability: string) => `@id("${id}")
permit (principal, action == Action::"issue", resource == Capability::"${capability}")
when {
  context.issuer == "github" &&
  context has github &&
  context.github.repository_id == "456789" &&
  context.github.event_name == "push" &&
  context.github.ref == "refs/heads/main"
};
`

/** Makes `<dir>/policies`, as `policies: { dir: policies }` of a configuration in `dir` wants it. */
export function writePolicies(dir: string, rules: string, name = 'local'): void {
  const folder = join(dir, 'policies')
  mkdirSync(folder, { recursive: true })
  copyFileSync(join(repository(), 'config', 'policies', 'schema.cedarschema'), join(folder, 'schema.cedarschema'))
  writeFileSync(join(folder, `${name}.cedar`), rules)
}
