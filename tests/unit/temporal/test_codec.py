"""Payloads are encrypted, and keys can be changed."""

from __future__ import annotations

import base64

import pytest
from temporalio.api.common.v1 import Payload

from cognigy_async import ConfigurationError
from cognigy_async.temporal.codec import DecryptionError, EncryptionCodec

OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
PAYLOAD = Payload(metadata={"encoding": b"json/plain"}, data=b'{"iban":"secret-value"}')


async def test_a_payload_is_the_same_after_encryption() -> None:
    codec = EncryptionCodec([OLD])
    first, second = await codec.encode([PAYLOAD, PAYLOAD])
    assert b"secret-value" not in first.SerializeToString()
    assert first.data != second.data
    assert list(await codec.decode([first, second])) == [PAYLOAD, PAYLOAD]
    assert list(await codec.decode([PAYLOAD])) == [PAYLOAD]


async def test_keys_can_be_changed_without_a_stop() -> None:
    old, both, new = EncryptionCodec([OLD]), EncryptionCodec([NEW, OLD]), EncryptionCodec([NEW])
    assert list(await both.decode(await old.encode([PAYLOAD]))) == [PAYLOAD]
    assert list(await new.decode(await both.encode([PAYLOAD]))) == [PAYLOAD]
    with pytest.raises(DecryptionError, match="does not have") as missing:
        await new.decode(await old.encode([PAYLOAD]))
    assert OLD not in str(missing.value)


async def test_a_changed_payload_is_refused() -> None:
    codec = EncryptionCodec([OLD])
    (found,) = await codec.encode([PAYLOAD])
    found.data = found.data[:-1] + bytes([found.data[-1] ^ 1])
    with pytest.raises(DecryptionError, match="was changed") as changed:
        await codec.decode([found])
    assert changed.value.__context__ is None


@pytest.mark.parametrize("keys", [[], ["not base64!"], ["c2hvcnQ="]])
def test_an_invalid_key_is_refused_without_quoting_it(keys: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        EncryptionCodec(keys)
    assert error.value.__context__ is None
    assert not any(key in str(error.value) for key in keys)
