"""The public key in a certificate, by which a member is known."""

from __future__ import annotations

import hashlib

_SEQUENCE, _VERSION = 0x30, 0xA0
#: Before the key in a TBSCertificate (RFC 5280, 4.1), after the version: serial number, signature, issuer, validity, subject.
_BEFORE_THE_KEY = 5


def spki_sha256(certificate: bytes) -> str:
    """The SHA-256 of the SubjectPublicKeyInfo of a certificate (both DER), in lower-case hexadecimal digits.

    Raises `ValueError` for what is no certificate.
    """
    fields = _content(_content(certificate, _SEQUENCE), _SEQUENCE)
    if fields[:1] == bytes([_VERSION]):
        fields = fields[_size(fields) :]
    for _ in range(_BEFORE_THE_KEY):
        fields = fields[_size(fields) :]
    key = fields[: _size(fields)]
    _content(key, _SEQUENCE)
    return hashlib.sha256(key).hexdigest()


def _content(value: bytes, tag: int) -> bytes:
    """What is in the value that `value` begins with."""
    if value[:1] != bytes([tag]):
        raise ValueError("not a certificate: another type was expected")
    size = _size(value)
    return value[_head(value) : size]


def _size(value: bytes) -> int:
    """Bytes of the value that `value` begins with, its head among them."""
    head = _head(value)
    length = value[1] if head == 2 else int.from_bytes(value[2:head], "big")
    if head + length > len(value):
        raise ValueError("not a certificate: it ends too early")
    return head + length


def _head(value: bytes) -> int:
    """Bytes of tag and length. DER: one byte, or as many as the first one says, four at most."""
    if len(value) < 2:
        raise ValueError("not a certificate: it ends too early")
    if value[1] < 0x80:
        return 2
    count = value[1] & 0x7F
    if not 1 <= count <= 4 or len(value) < 2 + count:
        raise ValueError("not a certificate: it has an invalid length")
    return 2 + count
