"""The official Python SDK, unmodified, against a running simulator.

run-sdks.sh starts the simulator (public fixture) as GUEST_API says, and names its sockets in the SDK's own environment
variables.
"""

import asyncio
import hashlib
import os
import unittest
import warnings

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from dstack_sdk import AsyncDstackClient, AsyncTappdClient, DstackClient, TappdClient
from eth_account import Account
from dstack_sdk.ethereum import to_account
from httpx import HTTPStatusError

APP_ID = "5bb4ff9a3837357f19dc176407a5709c62eb6c56"
INSTANCE_ID = "1691ed1b47506cad7d08834668691d88246f5b1f"
TEST_KEY = "133e8ca6e532ead3e38f00347408771da296e9c70e8e3e362f485154e64ef4e8"
KMS_SIGNATURE = (
    "9e618603e72d01fedb82deff6daf2d62a572becf0059eec3f89c1ab40e1f2e594d2a283f843f34e8f39e4cc49a612496"
    "ce67223a12ac923f8efe330346dfc6c500"
)
# Seconds; the SDK's own three are few where other tests have the processor.
PATIENCE = 60
# dstack 0.6 serves this API as it was, without events.
FROZEN = os.environ["GUEST_API"] == "0.6"


class Guest(unittest.TestCase):
    """The current API, synchronous: one client, so one reused connection."""

    @classmethod
    def setUpClass(cls):
        cls.client = DstackClient(timeout=PATIENCE)
        cls.client.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.client.__exit__(None, None, None)

    def test_reachable(self):
        self.assertTrue(self.client.is_reachable())

    def test_get_key(self):
        answer = self.client.get_key("test", "test")
        self.assertEqual(answer.key, TEST_KEY)
        chain = answer.decode_signature_chain()
        self.assertEqual([len(signature) for signature in chain], [65, 65])
        self.assertEqual(chain[1].hex(), KMS_SIGNATURE)

    def test_get_key_ed25519(self):
        answer = self.client.get_key("test", "test", "ed25519")
        self.assertEqual(answer.key, TEST_KEY)
        self.assertNotEqual(answer.signature_chain[0], self.client.get_key("test", "test").signature_chain[0])
        with self.assertRaises(HTTPStatusError) as refused:
            self.client.get_key("test", "test", "rsa")
        self.assertEqual(refused.exception.response.status_code, 400)

    def test_account(self):
        account = to_account(self.client.get_key("test", "test"))
        self.assertEqual(account.address.lower(), "0x66527976bdb9df65109af70dbebaeaf51853c6ac")
        self.assertEqual(account.address, Account.from_key(TEST_KEY).address)

    def test_info(self):
        info = self.client.info()
        self.assertEqual((info.app_id, info.instance_id), (APP_ID, INSTANCE_ID))
        self.assertEqual(info.cloud_vendor, "SIMULATED")
        self.assertEqual(info.tcb_info.compose_hash, hashlib.sha256(info.tcb_info.app_compose.encode()).hexdigest())
        self.assertIn("BEGIN CERTIFICATE", info.app_cert)
        self.assertTrue(info.tcb_info.event_log)

    def test_quote(self):
        answer = self.client.get_quote("test")
        quote = answer.decode_quote()
        self.assertEqual(quote[568:632], b"test".ljust(64, b"\0"))
        for register, value in answer.replay_rtmrs().items():
            at = 48 + 328 + 48 * register
            self.assertEqual(quote[at : at + 48].hex(), value)
        self.assertTrue(answer.decode_event_log())

    def test_attest(self):
        self.assertIn(b"test".ljust(64, b"\0"), self.client.attest("test").decode_attestation())

    @unittest.skipUnless(FROZEN, "of dstack 0.6")
    def test_emit_event_is_gone(self):
        with self.assertRaises(HTTPStatusError) as refused:
            self.client.emit_event("event", "payload")
        self.assertEqual(refused.exception.response.status_code, 400)
        self.assertTrue(refused.exception.response.json()["error"].startswith("EmitEvent was removed in dstack 0.6.0;"))

    @unittest.skipIf(FROZEN, "of dstack 0.5")
    def test_emit_event(self):
        before = self.client.get_quote("x").replay_rtmrs()
        self.assertIsNone(self.client.emit_event("größe", "payload"))
        after = self.client.get_quote("x").replay_rtmrs()
        self.assertEqual([register for register in range(4) if before[register] != after[register]], [3])
        self.assertEqual(self.client.get_quote("x").decode_event_log()[-1].event, "größe")

    def test_tls_key(self):
        answer = self.client.get_tls_key(
            "node", ["a.example"], usage_ra_tls=True, usage_client_auth=True, not_before=1700000000, not_after=4000000000
        )
        key = load_pem_private_key(answer.key.encode(), None)
        self.assertIsInstance(key.curve, ec.SECP256R1)
        leaf, authority = (x509.load_pem_x509_certificate(pem.encode()) for pem in answer.certificate_chain)
        leaf.verify_directly_issued_by(authority)
        authority.verify_directly_issued_by(authority)
        self.assertEqual(leaf.public_key(), key.public_key())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["a.example"])
        self.assertEqual(leaf.not_valid_after_utc.timestamp(), 4000000000)
        self.assertNotEqual(self.client.get_tls_key().key, answer.key)
        self.assertTrue(answer.as_uint8array(32))

    def test_sign_and_verify(self):
        for algorithm, data in [
            ("secp256k1", b"message"),
            ("ed25519", b"message"),
            ("secp256k1_prehashed", hashlib.sha256(b"message").digest()),
        ]:
            signed = self.client.sign(algorithm, data)
            self.assertEqual(len(signed.decode_signature_chain()), 3)
            signature, key = signed.decode_signature(), signed.decode_public_key()
            self.assertTrue(self.client.verify(algorithm, data, signature, key).valid)
            self.assertFalse(self.client.verify(algorithm, data[::-1], signature, key).valid)

    def test_version(self):
        self.assertIn("SIMULATED", self.client.version().version)


class Asynchronous(unittest.TestCase):
    def test_calls_side_by_side(self):
        async def calls():
            async with AsyncDstackClient(timeout=PATIENCE) as client:
                keys = await asyncio.gather(*(client.get_key(f"path/{i}") for i in range(32)))
                self.assertEqual(len({key.key for key in keys}), 32)
                self.assertEqual((await client.info()).app_id, APP_ID)

        asyncio.run(calls())


class Legacy(unittest.TestCase):
    """The deprecated Tappd client."""

    @classmethod
    def setUpClass(cls):
        warnings.simplefilter("ignore", DeprecationWarning)
        cls.client = TappdClient(timeout=PATIENCE)

    def test_derive_key(self):
        answer = self.client.derive_key("test", "subject", ["a.example"])
        key = load_pem_private_key(answer.key.encode(), None)
        self.assertEqual(f"{key.private_numbers().private_value:064x}", TEST_KEY)
        self.assertEqual(self.client.derive_key("test").key, answer.key)

    def test_quote(self):
        quote = self.client.tdx_quote("test", "raw").decode_quote()
        self.assertEqual(quote[568:632], b"test".rjust(64, b"\0"))
        quote = self.client.tdx_quote("test", "sha512").decode_quote()
        self.assertEqual(quote[568:632], hashlib.sha512(b"app-data:test").digest())

    def test_info(self):
        self.assertEqual(self.client.info().instance_id, INSTANCE_ID)

    def test_asynchronous(self):
        answer = asyncio.run(AsyncTappdClient(timeout=PATIENCE).derive_key("test"))
        self.assertEqual(answer.key, self.client.derive_key("test").key)


if __name__ == "__main__":
    unittest.main(verbosity=2)
