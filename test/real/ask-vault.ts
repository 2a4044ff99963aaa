/** Owns asking a real Vault directly, beside Curfew: to prepare what a case needs, and to look at what is there. */

export interface VaultAnswer {
  readonly status: number
  // biome-ignore lint/suspicious/noExplicitAny: an answer of another program, looked into by expectations.
  readonly body: any
}

/** @param token none for what asks for none, such as a login */
export async function askVault(address: string, token: string | null, method: string, path: string, body?: object): Promise<VaultAnswer> {
  const answer = await fetch(`${address}/v1/${path}`, {
    method,
    headers: token === null ? {} : { 'X-Vault-Token': token },
    ...(body ? { body: JSON.stringify(body) } : {}),
  })
  const text = await answer.text()
  return { status: answer.status, body: text ? JSON.parse(text) : null }
}
