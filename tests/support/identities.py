"""Certificates, and an authority that signs them."""

from datetime import datetime, timedelta, timezone
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates

ADDRESS = x509.IPAddress(ip_address("127.0.0.1"))


@frozen
class Identity:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def options(self, asks: "Identity | None" = None) -> Any:
        """Return what a TLS server needs to have this identity.

        :param asks: the authority of the certificates that its clients must have.
        """
        more: dict[str, Any] = {}
        if asks is not None:
            more["trustRoot"] = trustRootFromCertificates([Certificate.loadPEM(asks.pem)])
        return CertificateOptions(cast(Any, self.key), cast(Any, self.certificate), **more)


def issue(
    issuer: Identity | None,
    *names: x509.GeneralName,
    is_authority: bool = False,
    begin: timedelta = timedelta(days=-1),
) -> Identity:
    """Make an identity for two days.

    :param issuer: who signs; if nobody does, it signs itself.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "authority" if is_authority else "127.0.0.1")]
    )
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begin)
        .not_valid_after(now + begin + timedelta(days=2))
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Identity(key, builder.sign(issuer.key if issuer else key, SHA256()))


@cache
def authority(number: int = 0) -> Identity:
    """Return a certificate authority; which one depends on the number."""
    return issue(None, is_authority=True)


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have OpenSSL trust our authority, in the way that operators have for that."""
    path = tmp_path / "authority.pem"
    path.write_bytes(authority().pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
