/** Owns what counts as one source of requests: an IPv4 address, or the /64 that one IPv6 host can choose its addresses from. */

/** @param address as the kernel has it; undefined when the other side is gone already. */
export function sourceOf(address: string | undefined): string {
  if (address === undefined) return 'unknown'
  if (!address.includes(':')) return address
  const groups = groupsOf(address.replace(/%.*/s, ''))
  const [high = 0, low = 0] = groups.slice(6)
  // RFC 4291 section 2.5.5.2: the same host, seen through a socket that takes both.
  if (groups.slice(0, 5).every(g => g === 0) && groups[5] === 0xffff) return [high >> 8, high & 255, low >> 8, low & 255].join('.')
  return `${groups
    .slice(0, 4)
    .map(g => g.toString(16))
    .join(':')}::/64`
}

/** The eight numbers of an IPv6 address in any of its spellings. */
function groupsOf(address: string): number[] {
  const [head, tail] = address.split('::').map(half => (half === '' ? [] : half.split(':').flatMap(numbersOf))) as [number[], number[]?]
  return tail === undefined ? head : [...head, ...new Array(Math.max(0, 8 - head.length - tail.length)).fill(0), ...tail]
}

function numbersOf(part: string): number[] {
  const [a, b, c, d] = part.split('.').map(Number)
  if (a === undefined || b === undefined || c === undefined || d === undefined) return [Number.parseInt(part, 16)]
  return [a * 256 + b, c * 256 + d]
}
