"""TLS contexts of clients."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from cognigy_async._utils.tls import client_context, context_of_file, default_context
from cognigy_async.errors import ConfigurationError


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    return path


def test_a_context_is_that_of_httpx_but_writes_no_keys(keys: Path) -> None:
    context = client_context()
    assert context.keylog_filename is None
    assert not keys.exists()
    expected = httpx.create_ssl_context(trust_env=False)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    for name in ("verify_flags", "options", "minimum_version"):
        assert getattr(context, name) == getattr(expected, name)
    assert context.cert_store_stats() == expected.cert_store_stats()


def test_a_file_of_certificates_takes_the_place_of_the_others(keys: Path, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    context = client_context(authority)
    assert context.cert_store_stats()["x509_ca"] == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not keys.exists()
    with pytest.raises(ssl.SSLError):
        client_context("/dev/null")
    with pytest.raises(FileNotFoundError):
        client_context(tmp_path / "none")


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for path, problem in (("/dev/null", "no certificate"), (tmp_path / "none", "No such file")):
        with pytest.raises(ConfigurationError, match=f"CA: {path}.*{problem}"):
            context_of_file(path, "CA")


def test_the_default_context_is_shared() -> None:
    assert default_context() is default_context()
