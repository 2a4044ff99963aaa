/** Owns the binary words of SSH (RFC 4251 section 5): what keys, certificates and revocation lists are made of. */

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function uint64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

/** A length, and as many bytes. */
export function sshString(value: string | Uint8Array): Buffer {
  const bytes = Buffer.from(value)
  return Buffer.concat([uint32(bytes.length), bytes])
}

/** Reads one after another. @throws {RangeError} past the end. */
export class SshReader {
  #at = 0
  constructor(readonly bytes: Buffer) {}

  get done(): boolean {
    return this.#at === this.bytes.length
  }
  uint32(): number {
    return this.#take(4).readUInt32BE()
  }
  uint64(): bigint {
    return this.#take(8).readBigUInt64BE()
  }
  string(): Buffer {
    return this.#take(this.uint32())
  }
  text(): string {
    return this.string().toString('utf8')
  }
  #take(count: number): Buffer {
    if (this.#at + count > this.bytes.length) throw new RangeError('the SSH structure ends too early')
    const taken = this.bytes.subarray(this.#at, this.#at + count)
    this.#at += count
    return taken
  }
}
