"""An HTTPS proxy on loopback that answers CONNECT itself, with a certificate for S3's hosts that the test's authority signed."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOSTS = ("*.s3.eu-central-1.amazonaws.com", "s3.eu-central-1.amazonaws.com")


def make_certificates(folder: Path, authority: str) -> tuple[Path, Path]:
    """Write the certificate of an authority, and the key and certificate that it signed for HOSTS."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate(authority, authority, root_key, root_key, is_authority=True)
    leaf = _certificate("s3", authority, key, root_key, is_authority=False)
    kind = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
    trusted, server = folder / "authority.pem", folder / "server.pem"
    trusted.write_bytes(root)
    server.write_bytes(leaf + secret)
    return trusted, server


def _certificate(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> bytes:
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=names[1],
        subject_name=names[0],
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(days=1),
        not_valid_after=now + timedelta(days=1),
    ).add_extension(x509.BasicConstraints(is_authority, None), critical=True)
    if not is_authority:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@contextmanager
def tls_proxy(certificate: Path, port: int) -> Iterator[tuple[int, list[str]]]:
    """Answer CONNECT, end TLS, and pass what is inside on to a local port. Yield the proxy's port and the asked hosts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(
            target=_accept, args=(listener, lambda c: _serve(c, context, port, asked)), daemon=True
        )
        thread.start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        thread.join()


def _accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client,), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, port: int, asked: list[str]) -> None:
    with suppress(OSError), client:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(2**16)
        asked.append(head.split(b"\r\n")[0].decode())
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with (
            context.wrap_socket(client, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", port)) as s3,
        ):
            back = threading.Thread(target=_copy, args=(s3, inside), daemon=True)
            back.start()
            _copy(inside, s3)
            s3.shutdown(socket.SHUT_RDWR)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
