"""Checks that a server's certificate is for the name that was connected to."""

from typing import Any

from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address

#: The exceptions of :func:`check_name`.
WRONG_NAME = (CertificateError, VerificationError)


def check_name(connection: Any, name: str) -> None:
    """Check that the server's certificate is for this name, after the handshake.

    Twisted accepts a certificate whose names cannot be parsed, so its own check is not enough.

    :param connection: of pyOpenSSL.
    :param name: a host name or an IP address.
    :raises WRONG_NAME: if it is not.
    """
    check = verify_ip_address if isIPAddress(name) or isIPv6Address(name) else verify_hostname
    check(connection, name)
