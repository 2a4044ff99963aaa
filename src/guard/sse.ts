/** Owns reading server-sent events from bytes (WHATWG HTML, section 9.2.6), however they are cut into chunks, and never more of them than fits. */

export interface SseEvent {
  readonly name: string
  /** As it stood on this event; null: it had none. */
  readonly id: string | null
  readonly data: string
}

export interface SseParser {
  /** @throws when the stream is not what it may be; it is of no use after that. */
  push(chunk: Uint8Array): void
}

/** Characters of one line, and of the data of one event. A thousand entries are a tenth of this. */
const MAX_LINE = 4_194_304

/** Calls for each whole event, in order, before `push` returns. What the stream ends in the middle of is no event. */
export function sseParser(onEvent: (event: SseEvent) => void, { maxLine = MAX_LINE }: { readonly maxLine?: number } = {}): SseParser {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  /** The line that has not ended, in the pieces that it came in. */
  let pieces: string[] = []
  let waiting = 0
  /** A CR ended the last line; an LF right behind it belongs to the same end. */
  let afterCr = false
  let name = ''
  let id: string | null = null
  let data: string[] = []
  let size = 0

  function line(text: string): void {
    if (text === '') {
      if (data.length > 0) onEvent({ name: name === '' ? 'message' : name, id, data: data.join('\n') })
      name = ''
      id = null
      data = []
      size = 0
      return
    }
    const colon = text.indexOf(':')
    const field = colon < 0 ? text : text.slice(0, colon)
    const value = colon < 0 ? '' : text.slice(text.charAt(colon + 1) === ' ' ? colon + 2 : colon + 1)
    if (field === 'event') name = value
    else if (field === 'id') id = value
    else if (field === 'data') {
      size += value.length + 1
      if (size > maxLine) throw new Error(`an event of the feed is longer than ${maxLine}`)
      data.push(value)
    }
    // A comment, `retry` and whatever else there may come to be says nothing to us.
  }

  return {
    push(chunk) {
      const text = decoder.decode(chunk, { stream: true })
      let from = 0
      for (let at = 0; at < text.length; at++) {
        const char = text.charCodeAt(at)
        if (char !== 0x0a && char !== 0x0d) {
          afterCr = false
          continue
        }
        if (char === 0x0a && afterCr) {
          afterCr = false
          from = at + 1
          continue
        }
        afterCr = char === 0x0d
        if (waiting + at - from > maxLine) throw new Error(`a line of the feed is longer than ${maxLine}`)
        const rest = text.slice(from, at)
        from = at + 1
        if (pieces.length === 0) line(rest)
        else {
          pieces.push(rest)
          const whole = pieces.join('')
          pieces = []
          waiting = 0
          line(whole)
        }
      }
      if (from >= text.length) return
      pieces.push(text.slice(from))
      waiting += text.length - from
      if (waiting > maxLine) throw new Error(`a line of the feed is longer than ${maxLine}`)
    },
  }
}
