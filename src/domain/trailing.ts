/** Owns taking a repeated last character off a text. */

/** All of them, one look at each: `/=+$/` begins anew at every one of a row that does not end the text, which takes the square of its length. */
export function withoutTrailing(text: string, character: '/' | '='): string {
  let end = text.length
  while (end > 0 && text[end - 1] === character) end--
  return text.slice(0, end)
}
