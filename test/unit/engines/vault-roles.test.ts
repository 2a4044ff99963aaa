import { describe, expect, it } from 'vitest'
import { faultsOfRole } from '../../../src/engines/vault-roles.js'

const faults = (engine: string, role: object, parameters: object = {}) =>
  faultsOfRole({ engine, parameters: { ...parameters }, maxTtlSeconds: 900 }, { ...role }).map(f => f.fix)

describe('a role of certificates', () => {
  const good = { generate_lease: true, no_store: false, use_csr_common_name: false, use_csr_sans: false }
  it('that makes leases and keeps what it made is without fault', () => {
    expect(faults('vault-pki', good)).toEqual([])
    expect(faults('vault-pki', good, { key: 'caller' })).toEqual([])
  })
  it('without leases, or without a trace, is told', () => {
    expect(faults('vault-pki', { ...good, generate_lease: false })).toEqual(['generate_lease=true'])
    expect(faults('vault-pki', { ...good, generate_lease: undefined })).toEqual(['generate_lease=true'])
    expect(faults('vault-pki', { ...good, no_store: true })).toEqual(['no_store=false'])
  })
  it('that takes over the names of a request is told where callers send one', () => {
    const open = { ...good, use_csr_common_name: true, use_csr_sans: true }
    expect(faults('vault-pki', open)).toEqual([])
    expect(faults('vault-pki', open, { key: 'vault' })).toEqual([])
    for (const key of ['caller', 'either']) expect(faults('vault-pki', open, { key })).toEqual(['use_csr_common_name=false', 'use_csr_sans=false'])
  })
})

describe('a role of keys', () => {
  const good = { key_id_format: 'curfew-{{token_display_name}}', allow_user_key_ids: false, allow_empty_principals: false }
  it('as the shipped script writes it is without fault', () => {
    expect(faults('vault-ssh', good)).toEqual([])
  })
  it('that signs for less time than the capability allows is told, one without a limit of its own is not', () => {
    expect(faults('vault-ssh', { ...good, max_ttl: 600 })).toEqual(['max_ttl=900s'])
    for (const max_ttl of [0, 900, 3_600]) expect(faults('vault-ssh', { ...good, max_ttl })).toEqual([])
  })
  it('whose certificates no list could name, or that are for everybody, is told', () => {
    expect(faults('vault-ssh', { ...good, key_id_format: '' })).toEqual([`key_id_format='curfew-{{token_display_name}}'`])
    expect(faults('vault-ssh', { ...good, allow_user_key_ids: true, allow_empty_principals: true })).toHaveLength(2)
  })
})

describe('a role of database users', () => {
  it('whose statements end open sessions is without fault, and others are told', () => {
    expect(faults('vault-database', { revocation_statements: ['SELECT pg_terminate_backend(pid)'] })).toEqual([])
    expect(faults('vault-database', { revocation_statements: ['DROP ROLE x'] })).toHaveLength(1)
    expect(faults('vault-database', {})).toHaveLength(1)
  })
})

it('kinds without a role have no fault of one', () => {
  expect(faults('vault-token', {})).toEqual([])
})
