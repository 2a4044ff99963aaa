import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { checkRequest, issuerKeyOf, readCertificate, readRevocationList, serialOf, X509Error } from '../../../src/engines/x509.js'
import { authority } from '../../x509-authority.js'

describe('a certificate', () => {
  it('is read as its issuer wrote it', async () => {
    const ca = await authority()
    const notAfter = new Date('2030-01-02T03:04:05Z')
    const made = await ca.issue({ serial: '00c1ab', commonName: 'crd-7qk2', dns: ['b.example', 'a.example'], uris: ['spiffe://example.org/ci'], notAfter })
    expect(await readCertificate(made)).toEqual({
      serial: 'c1ab',
      commonName: 'crd-7qk2',
      names: ['dns:a.example', 'dns:b.example', 'uri:spiffe://example.org/ci'],
      notAfter,
      key: expect.stringMatching(/^[\w-]{43}$/),
    })
  })

  it('has one serial however that is written', () => {
    expect(serialOf('12:C1:AB')).toBe('12c1ab')
    expect(serialOf('00:01')).toBe('1')
  })

  it('knows its issuer by the key', async () => {
    const [ca, other] = [await authority(), await authority()]
    expect(issuerKeyOf(ca.certificate)).toBe((await readCertificate(ca.certificate)).key)
    expect(issuerKeyOf(ca.certificate)).not.toBe(issuerKeyOf(other.certificate))
  })
})

describe('a revocation list', () => {
  it.each(['ec', 'rsa'] as const)('of an %s authority is believed, and names what it names', async kind => {
    const ca = await authority(kind)
    const isListed = await readRevocationList(await ca.list(['00c1ab', '7f']), ca.certificate)
    expect([isListed('c1ab'), isListed('7f'), isListed('c1'), isListed('')]).toEqual([true, true, false, false])
    expect((await readRevocationList(await ca.list([]), ca.certificate))('7f')).toBe(false)
  })

  it('that another has signed is not, though the names agree', async () => {
    const [ca, other] = [await authority(), await authority()]
    await expect(readRevocationList(await other.list(['7f']), ca.certificate)).rejects.toThrow(X509Error)
    await expect(readRevocationList(await (await authority('rsa')).list(['7f']), ca.certificate)).rejects.toThrow(X509Error)
  })

  it('that was changed on its way is not', async () => {
    const ca = await authority()
    const bytes = Buffer.from((await ca.list(['7f7f7f'])).replace(/-----[^-]+-----|\n/g, ''), 'base64')
    const at = bytes.indexOf(Buffer.from('7f7f7f', 'hex'))
    bytes[at] = 0x11
    const changed = `-----BEGIN X509 CRL-----\n${bytes.toString('base64')}\n-----END X509 CRL-----\n`
    await expect(readRevocationList(changed, ca.certificate)).rejects.toThrow('is not signed by its key')
  })
})

it('T67 whatever is sent for a request is an error of one kind, never another and never a hang', async () => {
  await fc.assert(
    fc.asyncProperty(fc.oneof(fc.string(), fc.uint8Array({ maxLength: 600 })), async given => {
      const text =
        typeof given === 'string' ? given : `-----BEGIN CERTIFICATE REQUEST-----\n${Buffer.from(given).toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`
      await expect(checkRequest(text)).rejects.toThrow(X509Error)
    }),
    { numRuns: 300 },
  )
})

it('T67 a certificate with any one byte changed is read, or refused by that one error', async () => {
  const ca = await authority()
  const bytes = Buffer.from(ca.certificate.replace(/-----[^-]+-----|\n/g, ''), 'base64')
  let refused = 0
  for (let i = 0; i < bytes.length; i++) {
    const changed = Buffer.from(bytes)
    changed[i] = (changed[i] as number) ^ 0x41
    const text = `-----BEGIN CERTIFICATE-----\n${changed.toString('base64')}\n-----END CERTIFICATE-----\n`
    await readCertificate(text).catch(error => {
      refused++
      expect(error).toBeInstanceOf(X509Error)
    })
  }
  expect(refused).toBeGreaterThan(20)
})
