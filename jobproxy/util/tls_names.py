"""Whether a server is the one that it is said to be."""

from typing import Any

from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address

#: What :func:`check_name` fails with.
WRONG_NAME = (CertificateError, VerificationError)


def check_name(connection: Any, name: str) -> None:
    """Look whether the certificate of a server has its name, once the handshake is completed.

    Twisted takes a certificate whose names it cannot read for one with the right name.

    :param connection: of pyOpenSSL.
    :param name: or address.
    """
    check = verify_ip_address if isIPAddress(name) or isIPv6Address(name) else verify_hostname
    check(connection, name)
