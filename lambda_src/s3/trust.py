"""The certificate authorities that HTTPS trusts: those of this machine (SSL_CERT_FILE and SSL_CERT_DIR apply).

OpenSSL takes 20 ms to parse all of them. So requests to S3 try those that sign its certificates first:
https://aws.amazon.com/blogs/security/how-to-prepare-for-aws-move-to-its-own-certificate-authority/
"""

from __future__ import annotations

import ssl
from binascii import a2b_base64
from functools import cache

_AUTHORITIES = (b"Amazon Root CA", b"Starfield Services Root Certificate Authority")
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@cache
def full_context() -> ssl.SSLContext:
    """Return a context that trusts all authorities of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    context.load_default_certs()
    return context


@cache
def amazon_context() -> ssl.SSLContext | None:
    """Return a context that trusts only this machine's certificates of Amazon's authorities, None if it has none."""
    paths = ssl.get_default_verify_paths()
    try:
        with open(paths.cafile or paths.openssl_cafile, encoding="utf-8", errors="replace") as file:
            parts = file.read().split(_BEGIN)[1:]
        certificates = [a2b_base64(part.partition(_END)[0]) for part in parts]
        found = [one for one in certificates if any(name in one for name in _AUTHORITIES)]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=b"".join(found))
    except (OSError, ValueError):  # no such file, or nothing in it
        return None
    return context
