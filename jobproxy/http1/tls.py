"""Whom a client trusts, and how it shows who it is."""

from typing import Any

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates


@frozen
class ClientIdentity:
    """A certificate with its key.

    :param chain: the certificates between it and its authority.
    """

    certificate: x509.Certificate
    key: Any = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()


@frozen
class ClientTls:
    """The TLS of a client.

    :param roots: the authorities that may vouch for servers; empty: those that the machine trusts,
        in the files that OpenSSL reads (``SSL_CERT_FILE``, ``SSL_CERT_DIR``).
    :param identity: for servers that ask who their clients are.
    """

    roots: tuple[Certificate, ...] = ()
    identity: ClientIdentity | None = None

    def options_for(self, name: str) -> Any:
        """Return what :func:`wrapClientTLS` needs for a server.

        :param name: of the server, or its address, which its certificate must be for.
        """
        more: dict[str, Any] = {}
        if self.roots:
            more["trustRoot"] = trustRootFromCertificates(self.roots)
        if self.identity is not None:
            more["extraCertificateOptions"] = {
                "privateKey": self.identity.key,
                "certificate": self.identity.certificate,
                "extraCertChain": list(self.identity.chain),
            }
        return optionsForClientTLS(name, **more)


def load_identity(data: bytes) -> ClientIdentity:
    """Return the certificate and the key in a file in PEM, the certificate before its chain.

    :raises ValueError: if one of them is not there, or is damaged.
    """
    try:
        certificate, *chain = x509.load_pem_x509_certificates(data)
        key = load_pem_private_key(data, None)
    except TypeError as error:
        raise ValueError("the key has a password") from error
    if key.public_key() != certificate.public_key():
        raise ValueError("the key is not that of the certificate")
    return ClientIdentity(certificate, key, tuple(chain))
