// The official JS SDK, unmodified, against a running simulator.
//
// run-sdks.sh starts the simulator (public fixture) as GUEST_API says, and names its sockets in the SDK's own environment variables.
// Every call of this SDK hangs for 30 s unless the server closes on its FIN, hence the short deadlines.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { X509Certificate, createPrivateKey, createPublicKey } from 'node:crypto';
import { test } from 'node:test';
import { DstackClient, TappdClient } from '@phala/dstack-sdk';

const APP_ID = '5bb4ff9a3837357f19dc176407a5709c62eb6c56';
const TEST_KEY = '133e8ca6e532ead3e38f00347408771da296e9c70e8e3e362f485154e64ef4e8';
const KMS_SIGNATURE =
  '9e618603e72d01fedb82deff6daf2d62a572becf0059eec3f89c1ab40e1f2e594d2a283f843f34e8f39e4cc49a612496ce67223a12ac923f8efe330346dfc6c500';
const hex = (bytes) => Buffer.from(bytes).toString('hex');
// However slow the machine.
const check = (name, ...rest) => {
  const [options, body] = rest.length === 2 ? rest : [{}, ...rest];
  test(name, { timeout: 60_000, ...options }, body);
};
// dstack 0.6 serves this API as it was, without events.
const FROZEN = process.env.GUEST_API === '0.6';
const client = new DstackClient();
const legacy = new TappdClient();

check('isReachable', async () => {
  for (const guest of [client, legacy]) {
    let reachable = false;
    // The SDK asks for half a second only.
    for (let tries = 0; tries < 20 && !reachable; tries += 1) reachable = await guest.isReachable();
    assert.equal(reachable, true);
  }
});

check('getKey', async () => {
  const answer = await client.getKey('test', 'test');
  assert.equal(hex(answer.key), TEST_KEY);
  assert.deepEqual(answer.signature_chain.map((signature) => signature.length), [65, 65]);
  assert.equal(hex(answer.signature_chain[1]), KMS_SIGNATURE);
  assert.equal(hex((await client.getKey('test', 'test', 'ed25519')).key), TEST_KEY);
});

check('info', async () => {
  const info = await client.info();
  assert.equal(info.app_id, APP_ID);
  assert.equal(info.cloud_vendor, 'SIMULATED');
  assert.equal(info.tcb_info.compose_hash, createHash('sha256').update(info.tcb_info.app_compose).digest('hex'));
  assert.match(info.app_cert, /BEGIN CERTIFICATE/);
});

check('getQuote', async () => {
  const answer = await client.getQuote('test');
  const quote = Buffer.from(answer.quote, 'hex');
  assert.equal(quote.subarray(568, 632).toString().replaceAll('\0', ''), 'test');
  const registers = answer.replayRtmrs();
  for (const i of [0, 1, 2, 3]) assert.equal(hex(quote.subarray(376 + 48 * i, 424 + 48 * i)), registers[i]);
});

check('attest', async () => {
  assert.ok((await client.attest('test')).attestation.includes(Buffer.from('test').toString('hex').padEnd(128, '0')));
});

// This SDK looks at neither status nor error of this call.
check('emitEvent of dstack 0.6 seems to succeed', { skip: !FROZEN }, async () => {
  const before = (await client.getQuote('x')).replayRtmrs();
  await client.emitEvent('event', 'payload');
  assert.deepEqual((await client.getQuote('x')).replayRtmrs(), before);
});

check('emitEvent', { skip: FROZEN }, async () => {
  const before = (await client.getQuote('x')).replayRtmrs();
  await client.emitEvent('event', 'payload');
  // Not ASCII: the answers that carry it must be, or the SDK hangs.
  await client.emitEvent('event', 'größe');
  const after = (await client.getQuote('x')).replayRtmrs();
  assert.deepEqual([0, 1, 2, 3].filter((i) => before[i] !== after[i]), [3]);
  assert.equal((await client.info()).app_id, APP_ID);
});

check('getTlsKey', async () => {
  const answer = await client.getTlsKey({ subject: 'node', altNames: ['a.example'], usageRaTls: true, notAfter: 4000000000 });
  const [leaf, authority] = answer.certificate_chain.map((pem) => new X509Certificate(pem));
  assert.ok(leaf.verify(authority.publicKey) && leaf.checkIssued(authority));
  assert.equal(leaf.checkHost('a.example'), 'a.example');
  const key = createPrivateKey(answer.key);
  assert.ok(createPublicKey(key).equals(leaf.publicKey));
  assert.notEqual((await client.getTlsKey()).key, answer.key);
  assert.equal(answer.asUint8Array(32).length, 32);
});

check('sign and verify', async () => {
  const digest = createHash('sha256').update('message').digest();
  for (const [algorithm, data] of [['secp256k1', 'message'], ['ed25519', 'message'], ['secp256k1_prehashed', digest]]) {
    const signed = await client.sign(algorithm, data);
    assert.equal(signed.signature_chain.length, 3);
    assert.equal((await client.verify(algorithm, data, signed.signature, signed.public_key)).valid, true);
    const other = createHash('sha256').update('other').digest();
    assert.equal((await client.verify(algorithm, other, signed.signature, signed.public_key)).valid, false);
  }
});

check('version', async () => {
  assert.match((await client.version()).version, /SIMULATED/);
});

check('legacy deriveKey and tdxQuote', async () => {
  const answer = await legacy.deriveKey('test', 'subject', ['a.example']);
  assert.equal(createPrivateKey(answer.key).export({ format: 'jwk' }).d, Buffer.from(TEST_KEY, 'hex').toString('base64url'));
  const quote = Buffer.from((await legacy.tdxQuote('test', 'sha512')).quote, 'hex');
  assert.equal(hex(quote.subarray(568, 632)), createHash('sha512').update('app-data:test').digest('hex'));
});
