"""How much and how long a peer may send; beyond that its connection ends."""

from attrs import frozen


@frozen
class ServerLimits:
    """Bounds on what a client may do with one connection. Sizes in bytes, times in seconds.

    :param head: the request line and all header lines together.
    :param header_line: one header line.
    :param header_count: header lines of a request.
    :param body: a request's body.
    :param ahead: what may be sent while a request before it has no response yet.
    :param request_time: from a request's first byte to its last.
    :param silent_time: from the connection to its first byte.
    :param idle_time: between a response and the next request; also how long a client may leave
        a response unread.
    :param linger_time: after an error that ends the connection, for the client to read it.
    :param linger_size: what is received and thrown away meanwhile.
    :param leave_time: for a connection that is closed because nothing came to be closed.
    """

    head: int = 32_768
    header_line: int = 16_384
    header_count: int = 100
    body: int = 65_536
    ahead: int = 4_096
    request_time: float = 10.0
    silent_time: float = 10.0
    idle_time: float = 30.0
    linger_time: float = 2.0
    linger_size: int = 1_048_576
    leave_time: float = 1.0


@frozen
class ClientLimits:
    """Bounds on what a server may send, and on the connections to it.

    :param head: bytes of the status line and all header lines together.
    :param body: bytes of a response's body.
    :param interim: responses of status 1xx before the real one.
    :param connections: requests under way at once; more wait their turn.
    :param connect_time: seconds for a connection to be made.
    :param idle_time: seconds that an idle connection is kept for the next request; 0: none is.
    """

    head: int = 32_768
    body: int = 65_536
    interim: int = 16
    connections: int = 256
    connect_time: float = 3.0
    idle_time: float = 2.0
