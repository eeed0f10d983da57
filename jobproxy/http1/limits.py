"""Limits on what a peer may send and on its time; beyond them its connection is closed."""

from attrs import frozen


@frozen
class ServerLimits:
    """Limits of one connection of a client. Sizes are in bytes, times in seconds.

    :param head: the request line and all header lines together.
    :param header_line: one header line.
    :param header_count: header lines of a request.
    :param body: a request's body.
    :param overhead: bytes of the head and of the framing of chunks, beyond eight times the body.
    :param ahead: all that is sent while an earlier request has no response yet.
    :param request_time: from the first byte of a request to its last.
    :param silent_time: from the connection to its first byte.
    :param idle_time: between a response and the next request; also the time in which a client must
        read a response.
    :param linger_time: after an error that ends the connection, so that the client can read it.
    :param linger_size: what is received and dropped during that time.
    :param leave_time: for the close of a connection that sent nothing for too long.
    """

    head: int = 32_768
    header_line: int = 16_384
    header_count: int = 100
    body: int = 65_536
    overhead: int = 131_072
    ahead: int = 4_096
    request_time: float = 10.0
    silent_time: float = 10.0
    idle_time: float = 30.0
    linger_time: float = 2.0
    linger_size: int = 1_048_576
    leave_time: float = 1.0


@frozen
class ClientLimits:
    """Limits on the responses of servers and on the connections to them.

    :param head: bytes of the status line and all header lines together.
    :param body: bytes of a response's body.
    :param interim: responses of status 1xx before the real one.
    :param connections: requests in progress at the same time; further ones wait for their turn.
    :param connect_time: seconds to connect, and then as many for the TLS handshake.
    :param idle_time: seconds that an idle connection is kept for the next request; 0: none is kept.
    """

    head: int = 32_768
    body: int = 65_536
    interim: int = 16
    connections: int = 256
    connect_time: float = 3.0
    idle_time: float = 2.0
