"""TLS contexts of clients."""

from __future__ import annotations

import functools
import os
import ssl
import sys

import certifi

from ..errors import ConfigurationError


def client_context(ca_file: str | os.PathLike[str] | None = None) -> ssl.SSLContext:
    """Return a context that verifies certificates, and ignores the variables of the environment.

    Args:
        ca_file: certificates to trust, in PEM format; by default those that httpx brings.

    Raises:
        OSError: the file cannot be read, or as `ssl.SSLError`, has no certificate.
    """
    # `ssl.create_default_context` would write the keys of all connections to SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certifi.where() if ca_file is None else ca_file)
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    return context


@functools.cache
def default_context() -> ssl.SSLContext:
    """Return a shared context with the certificates that httpx brings."""
    # Cached, because reading the certificates takes longer than many requests.
    return client_context()


def context_of_file(ca_file: str | os.PathLike[str], source: str) -> ssl.SSLContext:
    """Return a context that trusts the certificates of a file.

    Args:
        source: the setting or argument that names the file.

    Raises:
        ConfigurationError: the file cannot be read, or has no certificate.
    """
    try:
        return client_context(ca_file)
    except ssl.SSLError:
        problem = "it has no certificate in PEM format"
    except OSError as error:
        problem = error.strerror or "it cannot be read"
    raise ConfigurationError(f"{source}: {ca_file}: {problem}; name a file of CA certificates")
