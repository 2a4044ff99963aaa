/**
 * Owns one call of the SPIFFE Workload API: FetchJWTSVID, unary gRPC over HTTP/2 on the agent's socket. Two messages of a handful of
 * text fields do not need a gRPC library and its thirty packages.
 */
import { connect as connectHttp2, constants, type IncomingHttpHeaders } from 'node:http2'
import { connect } from 'node:net'
import { within } from '../../domain/deadline.js'
import { usage } from '../exit.js'
import { unavailable } from './source.js'

const WAIT_MS = 10_000
const MOST_BYTES = 1_048_576
const PATH = '/SpiffeWorkloadAPI/FetchJWTSVID'
/** grpc-status: the agent knows nobody who looks like this process. */
const PERMISSION_DENIED = '7'

/** Field numbers of workload.proto. */
const AUDIENCE = 1
const SVIDS = 1
const SVID = 2

/** The first, which is the default one (SPIFFE Workload API section 6.2.1). @param endpoint as `SPIFFE_ENDPOINT_SOCKET` has it. */
export async function fetchJwtSvid(endpoint: string, audience: string, signal: AbortSignal): Promise<string> {
  const { status, message, body } = await call(endpoint, framed(textField(AUDIENCE, audience)), within(WAIT_MS, signal), signal)
  if (status === PERMISSION_DENIED)
    throw unavailable('the SPIFFE agent has no identity for this process', 'register it: spire-server entry create -parentID … -spiffeID … -selector …')
  if (status !== '0') throw unavailable(`the SPIFFE agent refused a JWT-SVID (gRPC status ${status}${message === '' ? '' : `: ${message}`})`)
  const [svid] = fieldsOf(unframed(body), SVIDS)
  const token = svid && fieldsOf(svid, SVID)[0]
  if (!token) throw unavailable('the SPIFFE agent answered without a JWT-SVID')
  return token.toString('utf8')
}

interface Answer {
  readonly status: string
  readonly message: string
  readonly body: Buffer
}

function call(endpoint: string, request: Buffer, deadline: AbortSignal, signal: AbortSignal): Promise<Answer> {
  const socket = socketOf(endpoint)
  return new Promise((resolve, reject) => {
    const session = connectHttp2('http://localhost', { createConnection: () => connect(socket) })
    const failed = (cause?: unknown) => {
      session.destroy()
      reject(
        signal.aborted
          ? signal.reason
          : unavailable(
              `no SPIFFE agent answers at ${endpoint}${deadline.aborted ? ' in time' : ''}`,
              'check that it runs, and that SPIFFE_ENDPOINT_SOCKET names its socket (unix:///… or tcp://IP:PORT)',
              cause,
            ),
      )
    }
    session.on('error', failed)
    const stream = session.request({
      [constants.HTTP2_HEADER_METHOD]: 'POST',
      [constants.HTTP2_HEADER_PATH]: PATH,
      'content-type': 'application/grpc',
      te: 'trailers',
      // Without it the agent must refuse: no browser can be made to send it (SPIFFE Workload Endpoint section 5).
      'workload.spiffe.io': 'true',
    })
    const chunks: Buffer[] = []
    let size = 0
    let told: IncomingHttpHeaders = {}
    deadline.addEventListener('abort', failed, { once: true })
    stream.on('error', failed)
    // A refusal may come in the headers alone ("trailers only").
    stream.on('response', headers => {
      told = headers
    })
    stream.on('trailers', trailers => {
      told = { ...told, ...trailers }
    })
    stream.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size > MOST_BYTES) failed()
      else chunks.push(chunk)
    })
    stream.on('end', () => {
      deadline.removeEventListener('abort', failed)
      session.close()
      const said = (name: string) => (typeof told[name] === 'string' ? (told[name] as string) : '')
      resolve({ status: said('grpc-status') || '2', message: decoded(said('grpc-message')).slice(0, 200), body: Buffer.concat(chunks) })
    })
    stream.end(request)
  })
}

function socketOf(endpoint: string): { path: string } | { host: string; port: number } {
  const unix = /^unix:(?:\/\/)?(\/.+)$/.exec(endpoint)
  if (unix) return { path: unix[1] as string }
  // An address, never a name: a name could be made to lead elsewhere (section 4).
  const tcp = /^tcp:\/\/(\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:]+\]):(\d{1,5})$/.exec(endpoint)
  if (tcp) return { host: (tcp[1] as string).replace(/[[\]]/g, ''), port: Number(tcp[2]) }
  throw usage('SPIFFE_ENDPOINT_SOCKET is unix:///path or tcp://IP:PORT')
}

/** gRPC percent-encodes what is not printable. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** One uncompressed message with its length in front. */
function framed(message: Buffer): Buffer {
  const head = Buffer.alloc(5)
  head.writeUInt32BE(message.length, 1)
  return Buffer.concat([head, message])
}

function unframed(body: Buffer): Buffer {
  if (body.length < 5 || body[0] !== 0 || body.readUInt32BE(1) !== body.length - 5)
    throw unavailable('the SPIFFE agent answered something that is no gRPC message')
  return body.subarray(5)
}

/** Protocol Buffers: a tag of field number and wire type 2, a length, the bytes. */
function textField(field: number, text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8')
  return Buffer.concat([Buffer.from([(field << 3) | 2]), varint(bytes.length), bytes])
}

function varint(n: number): Buffer {
  const bytes: number[] = []
  let left = n
  for (; left > 0x7f; left = Math.floor(left / 128)) bytes.push((left % 128) | 0x80)
  return Buffer.from([...bytes, left])
}

/** Every value of a field that is a text or a message; what else there is is passed over. */
function fieldsOf(message: Buffer, wanted: number): Buffer[] {
  const found: Buffer[] = []
  let at = 0
  const number = () => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const byte = message[at++]
      if (byte === undefined || shift > 49) throw unavailable('the SPIFFE agent answered something that cannot be read')
      value += (byte & 0x7f) * 2 ** shift
      if (byte < 0x80) return value
    }
  }
  while (at < message.length) {
    const tag = number()
    const [field, wire] = [Math.floor(tag / 8), tag % 8]
    if (wire === 0) number()
    else if (wire === 1) at += 8
    else if (wire === 5) at += 4
    else if (wire === 2) {
      const length = number()
      if (at + length > message.length) throw unavailable('the SPIFFE agent answered something that cannot be read')
      if (field === wanted) found.push(message.subarray(at, at + length))
      at += length
    } else throw unavailable('the SPIFFE agent answered something that cannot be read')
  }
  return found
}
