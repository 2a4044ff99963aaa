/** Owns reading the pages for people as a machine must: their blocks, and the ids in them that stand for those of the moment. */

/** The fenced blocks of a language, in order. */
export const blocksOf = (page: string, language: string): string[] =>
  [...page.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm'))].map(m => m[1] as string)

/** An id of a page is an example: in its place comes the last of its kind that was printed. */
export function idsAsSeen(command: string, printed: string): string {
  return command.replace(
    /\b([a-z]{3})_[0-9a-hjkmnp-tv-z]{26}\b/g,
    (example, prefix: string) => printed.match(new RegExp(`\\b${prefix}_[0-9a-hjkmnp-tv-z]{26}\\b`, 'g'))?.at(-1) ?? example,
  )
}

/** The languages of its blocks, in order; a block without one is `''`. */
export function fences(page: string): string[] {
  const marks = [...page.matchAll(/^```(\w*)$/gm)].map(m => m[1] as string)
  return marks.filter((_, i) => i % 2 === 0)
}
