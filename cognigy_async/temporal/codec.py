"""Encrypt what the cluster keeps, so that its operators cannot read variables."""

from __future__ import annotations

import binascii
import os
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
)

from cognigy_async import CognigyError, ConfigurationError

ENCODING = b"binary/encrypted"
NONCE_BYTES = 12
KEY_BYTES = 32


class DecryptionError(CognigyError):
    """A payload of the cluster cannot be decrypted with the keys of this process."""


class EncryptionCodec(PayloadCodec):
    """Encrypts payloads with AES-256-GCM.

    Args:
        keys: Base64 of 32 bytes each. The first key encrypts; all of them decrypt. To change the
            key, add the new one at the end on all machines, then move it to the front, and remove
            the old one when no open workflow has a payload of it.

    Raises:
        ConfigurationError: A key is not base64 of 32 bytes, or there is none.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys: dict[bytes, AESGCM] = {}
        for key in keys:
            raw = _read_key(key)
            self._keys[sha256(raw).hexdigest()[:16].encode()] = AESGCM(raw)
        if not self._keys:
            raise ConfigurationError("EncryptionCodec: pass at least one key")
        self._first = next(iter(self._keys))

    async def encode(self, payloads: Iterable[Payload]) -> list[Payload]:
        """Return the payloads encrypted."""
        return [self._encrypt(payload.SerializeToString()) for payload in payloads]

    async def decode(self, payloads: Iterable[Payload]) -> list[Payload]:
        """Return the payloads decrypted. Those that are not encrypted stay as they are.

        Raises:
            DecryptionError: A key is missing, or a payload was changed.
        """
        return [self._decrypt(payload) for payload in payloads]

    def _encrypt(self, content: bytes) -> Payload:
        nonce = os.urandom(NONCE_BYTES)
        data = nonce + self._keys[self._first].encrypt(nonce, content, self._first)
        return Payload(metadata={"encoding": ENCODING, "key": self._first}, data=data)

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        name = payload.metadata.get("key", b"")
        key = self._keys.get(name)
        if key is None:
            raise DecryptionError(
                f"a payload of the cluster was encrypted with the key {name[:16]!r}, which this "
                "process does not have; add it to COGNIGY_TEMPORAL_KEY"
            )
        nonce, data = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
        try:
            return Payload.FromString(key.decrypt(nonce, data, name))
        except InvalidTag:
            fault = "a payload of the cluster was changed after it was encrypted; do not use it"
        raise DecryptionError(fault)


def data_converter(keys: Sequence[str]) -> DataConverter:
    """Return a converter that encrypts with `keys`, also the texts of failures."""
    return replace(
        DataConverter.default,
        payload_codec=EncryptionCodec(keys),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


def _read_key(key: str) -> bytes:
    try:
        raw = b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    # Raise outside of `except`, so that the error's context does not hold the key.
    if len(raw) != KEY_BYTES:
        raise ConfigurationError(
            f"EncryptionCodec: a key (COGNIGY_TEMPORAL_KEY) must be base64 of {KEY_BYTES} bytes, "
            f"as of: openssl rand -base64 {KEY_BYTES}"
        )
    return raw
