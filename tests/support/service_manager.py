"""A service manager that receives the notifications of ``sd_notify(3)``."""

import socket
from select import POLLIN, poll

#: Does what the manager does between fork and exec; the sockets are the last arguments.
EXEC = """
import os, sys
sockets = [int(number) for number in sys.argv[1].split(",")]
for number, inherited in enumerate(sockets, 3):
    os.dup2(inherited, number)
    os.close(inherited)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """Listens on ``$NOTIFY_SOCKET``.

    :param address: a path, or an abstract name that starts with a null character.
    :ivar variable: the value of ``$NOTIFY_SOCKET``.
    """

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(address)
        self.variable = address.replace("\0", "@")

    def receive(self) -> list[dict[str, str]]:
        """Return the notifications since the last call."""
        messages = []
        while self.has_message():
            messages.append(self.receive_one())
        return messages

    def receive_one(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))

    def has_message(self, seconds: float = 0.0) -> bool:
        """Whether there is a notification, now or within so many seconds."""
        poller = poll()
        poller.register(self.socket, POLLIN)
        return bool(poller.poll(max(0.0, seconds) * 1000))
