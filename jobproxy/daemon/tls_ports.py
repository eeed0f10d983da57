"""Ports with TLS: their certificates can be read again, and clients may have to have some too."""

from collections.abc import Sequence
from typing import Any, cast

from attrs import define, field
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IOpenSSLContextFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates
from zope.interface import implementer


@implementer(IOpenSSLContextFactory)
@define(eq=False)
class TlsPort:
    """A port with TLS, between its endpoint and the reactor.

    Twisted reads the files that an endpoint's description names once, when it parses it.

    :param description: of an endpoint (strports), which begins with ``ssl:``.
    :param authorities: one of them must have signed the certificate of each client; none: clients
        need no certificate.
    """

    _reactor: Any
    description: str
    _authorities: Sequence[Certificate] = ()
    _options: CertificateOptions | None = field(default=None, init=False)

    def make_endpoint(self) -> IStreamServerEndpoint:
        """Return the endpoint; once it listens, :meth:`reload` can be called."""
        return serverFromString(cast(Any, self), self.description)

    def listenSSL(  # noqa: N802 - Twisted's
        self,
        port: int,
        factory: Factory,
        contextFactory: CertificateOptions,  # noqa: N803 - Twisted's
        **more: Any,
    ) -> Any:
        """Listen, with certificates that can be replaced; the endpoint calls this."""
        self._use(contextFactory, self._authorities)
        return self._reactor.listenSSL(port, factory, self, **more)

    def getContext(self) -> Any:  # noqa: N802 - Twisted's
        """Return what a new connection needs; the open ones keep what they have."""
        assert self._options is not None
        return self._options.getContext()

    def reload(self) -> None:
        """Read the files again.

        :raises Exception: if they are wrong; the port goes on with what it has.
        """
        found: list[CertificateOptions] = []
        serverFromString(cast(Any, _Reading(found)), self.description).listen(Factory())
        self._use(found[0], self._authorities)

    def replace_authorities(self, authorities: Sequence[Certificate]) -> None:
        """Ask new connections for a certificate of other authorities."""
        assert self._options is not None
        self._use(self._options, authorities)
        self._authorities = authorities

    def _use(self, options: CertificateOptions, authorities: Sequence[Certificate]) -> None:
        if authorities:
            options = CertificateOptions(
                privateKey=options.privateKey,
                certificate=options.certificate,
                extraCertChain=options.extraCertChain,
                trustRoot=trustRootFromCertificates(list(authorities)),
            )
        # A key that is not that of the certificate fails here, and not with each client.
        options.getContext()
        self._options = options


@define(eq=False)
class _Reading:
    """Stands for a reactor, to get what an endpoint has read from its files."""

    _found: list[CertificateOptions]

    def listenSSL(  # noqa: N802 - Twisted's
        self,
        port: int,  # noqa: ARG002
        factory: Factory,  # noqa: ARG002
        contextFactory: CertificateOptions,  # noqa: N803 - Twisted's
        **_: Any,
    ) -> None:
        self._found.append(contextFactory)
