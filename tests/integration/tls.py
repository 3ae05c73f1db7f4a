"""A certificate for 127.0.0.1 that nobody trusts, and whoever is told to. The key is no secret."""

from __future__ import annotations

import ssl
import tempfile

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBjDCCATKgAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABE1yDFh6ovLC+tYh
eduD1b4qGX5W8JShlCToAx4ajZ181OR/WYTaGskzldayu7TCuTIeSqjlzeNIyjPT
NVaoZkSjczBxMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MA4GA1UdDwEB/wQEAwIChDATBgNVHSUEDDAKBggrBgEFBQcDATAdBgNV
HQ4EFgQUHEu4/ROpZTNSss2bqtN0JXg60WkwCgYIKoZIzj0EAwIDSAAwRQIhAPjR
tOIU7umzzHlRleOyRxos2b3ZajWG7lnipDYWK9X8AiAX4wog2iY6X41KqwEegHgI
4noLvXQEWhKrrvxaonKu6A==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIIgVPhOPq3j3XjKXbULUezFd0di9UdUmQLvtlym+t33moAoGCCqGSM49
AwEHoUQDQgAETXIMWHqi8sL61iF524PVvioZflbwlKGUJOgDHhqNnXzU5H9ZhNoa
yTOV1rK7tMK5Mh5KqOXN40jKM9M1VqhmRA==
-----END EC PRIVATE KEY-----
"""


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL reads them from a file only.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(KEY + CERTIFICATE)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def trusting_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CERTIFICATE)
    return context
