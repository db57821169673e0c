"""TLS in front of a unix socket, with certificates of both sides, as engines on a network have it."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """PEM files: who signs, and the pairs of both sides."""

    dir: Path

    def path(self, name: str) -> str:
        return str(self.dir / name)


def certificates(folder: Path) -> Certificates:
    """An authority, a server for 127.0.0.1, a client."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _signed("test authority", ca_key, None, ca_key)
    _write(folder, "ca", ca, ca_key)
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(folder, name, _signed(name, key, ca, ca_key), key)
    return Certificates(dir=folder)


def _signed(
    name: str, key: ec.EllipticCurvePrivateKey, ca: x509.Certificate | None, ca_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if ca is not None:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}-key.pem").write_bytes(text)


@contextlib.contextmanager
def listening(known: Certificates, target: Path) -> Iterator[int]:
    """The port of 127.0.0.1 on which only clients with a certificate are let through to a unix socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(known.path("server.pem"), known.path("server-key.pem"))
    context.load_verify_locations(known.path("ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        ended = threading.Event()
        thread = threading.Thread(target=_accept, args=(server, context, target, ended), daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join(5)


def _accept(server: socket.socket, context: ssl.SSLContext, target: Path, ended: threading.Event) -> None:
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            client, _ = server.accept()
            threading.Thread(target=_serve, args=(client, context, target), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, target: Path) -> None:
    with contextlib.suppress(OSError), client, socket.socket(socket.AF_UNIX) as engine:
        near = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        try:
            near.do_handshake()
        except ssl.SSLError:
            _refuse(socket.socket(fileno=near.detach()))
            return
        engine.connect(str(target))
        while True:
            ready = [near] if near.pending() else select.select([near, engine], [], [])[0]
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (engine if source is near else near).sendall(data)


def _refuse(client: socket.socket) -> None:
    """Let it read our alert before the connection goes."""
    with client:
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            continue
