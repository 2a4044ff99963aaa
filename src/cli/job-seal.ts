/** Owns what only the commands of one CI job can open: on a runner that jobs share, a file of the same user is not enough. */
import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from 'node:crypto'

export interface JobSeal {
  /** Of the job, and telling nothing of what it is made of. */
  readonly name: string
  seal(value: unknown): string
  /** Null: of another job, or damaged. */
  open(box: unknown): unknown
}

const IV_BYTES = 12
const TAG_BYTES = 16

/** @returns null when a variable is not there: then this is no command of that job. */
export function jobSeal(env: Readonly<Record<string, string | undefined>>, variables: readonly string[]): JobSeal | null {
  const values = variables.map(name => env[name]?.trim())
  if (values.length === 0 || values.some(value => !value)) return null
  const material = JSON.stringify([variables, values])
  const key = Buffer.from(hkdfSync('sha256', material, '', 'curfew: what a job keeps', 32))
  return {
    name: createHash('sha256').update(`curfew: a job\n${material}`).digest('hex').slice(0, 32),
    seal(value) {
      const iv = randomBytes(IV_BYTES)
      const cipher = createCipheriv('aes-256-gcm', key, iv)
      const sealed = Buffer.concat([cipher.update(JSON.stringify(value), 'utf8'), cipher.final()])
      return Buffer.concat([iv, cipher.getAuthTag(), sealed]).toString('base64url')
    },
    open(box) {
      try {
        const bytes = Buffer.from(box as string, 'base64url')
        const cipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, IV_BYTES), { authTagLength: TAG_BYTES })
        cipher.setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES))
        return JSON.parse(Buffer.concat([cipher.update(bytes.subarray(IV_BYTES + TAG_BYTES)), cipher.final()]).toString('utf8'))
      } catch {
        return null
      }
    },
  }
}
