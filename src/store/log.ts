/** Owns the little that the store says about itself. */
export interface Log {
  warn(fields: object, message: string): void
}
