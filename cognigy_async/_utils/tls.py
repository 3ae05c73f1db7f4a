"""TLS contexts of clients."""

from __future__ import annotations

import os
import ssl
import sys

import certifi


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
