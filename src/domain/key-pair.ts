/** Owns the making of key pairs by node:crypto, in the one way that cannot stop a process. */
import { generateKeyPair } from 'node:crypto'
import { promisify } from 'node:util'

/**
 * A new key pair, made on another thread. Node's synchronous twin is banned: what made the key shares its lock until it is collected,
 * and a collection that comes while the key is exported waits for that lock on the thread that holds it, without end (seen with Node 20.20).
 */
export const newKeyPair = promisify(generateKeyPair)
