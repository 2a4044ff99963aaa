/** Owns the question whether a condition can only hold when a fact has one of the values written in it. */
import { type Expr, entityLiteralOf, hasPathOf, literalOf, literalsOf, operandsOf, operatorOf, pathOf } from './est.js'

/** `a == "x" || a == "y"` pins `a`; `a == "x" || b == "y"` pins neither. A lone `has` pins only a whole record that `wanted` names. */
export function pins(expr: Expr, wanted: (path: readonly string[]) => boolean): boolean {
  const { left, right } = operandsOf(expr) as { left: Expr; right: Expr }
  const is = (part: unknown) => {
    const path = pathOf(part)
    return path !== null && wanted(path)
  }
  const isWritten = (part: unknown) => literalOf(part) !== null || entityLiteralOf(part) !== null
  switch (operatorOf(expr)) {
    case '&&':
      return pins(left, wanted) || pins(right, wanted)
    case '||':
      return pins(left, wanted) && pins(right, wanted)
    case '==':
      return (is(left) && isWritten(right)) || (is(right) && isWritten(left))
    case 'in':
      return is(left) && (isWritten(right) || isSetOfEntities(right))
    case 'contains':
      return (is(right) && literalsOf(left) !== null) || (is(left) && isWritten(right))
    case 'has':
      return hasPathOf(expr)?.join('.') === 'context.registered' && wanted(['context', 'registered'])
    default:
      return false
  }
}

function isSetOfEntities(expr: Expr): boolean {
  return Array.isArray(expr.Set) && expr.Set.every(member => entityLiteralOf(member) !== null)
}
