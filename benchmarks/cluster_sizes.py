"""The load of a Redis with 10, 100 and 1,000 nodes, and its capacity.

Measures on a Redis on this machine how many results it stores per second and how much memory each
key takes; the rest is calculated from that.
"""

import argparse
import hashlib
import os
import socket
import sys
import time
from pathlib import Path

from attrs import frozen

from jobproxy.store import redis_scripts as scripts
from jobproxy.store.times import Times
from jobproxy.util.chunks import CHUNK

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.redis_server import RedisServer

NODES = (10, 100, 1_000)
BATCH = 500


@frozen
class Costs:
    """The measured costs of one Redis.

    :param puts: results per second that it stores and publishes to one node.
    :param memory: bytes of each kind of key.
    """

    puts: float
    memory: dict[str, int]


def write(*words: object) -> bytes:
    """Return a command in the Redis protocol."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


def measure(size: int, seconds: float) -> Costs:
    """Store results of so many bytes in a Redis for so many seconds."""
    with RedisServer() as redis, socket.create_connection(("127.0.0.1", redis.port)) as connection:
        reader = connection.makefile("rb")

        def run(*commands: bytes) -> list[bytes]:
            connection.sendall(b"".join(commands))
            return [read(reader) for _ in commands]

        sha = run(write("SCRIPT", "LOAD", scripts.PUT_RESULT))[0].decode()
        assert sha == hashlib.sha1(scripts.PUT_RESULT.encode()).hexdigest()
        run(write("ZADD", "jobproxy:nodes", int(time.time() * 1000) + 600_000, "node-one"))
        listener = socket.create_connection(("127.0.0.1", redis.port))
        listener.sendall(write("SUBSCRIBE", "jobproxy:0:node:node-one"))
        listening = os.fork()
        if not listening:
            while listener.recv(1 << 20):
                pass
            os._exit(0)
        listener.close()
        body, done, begun = b"x" * size, 0, time.perf_counter()
        while time.perf_counter() < begun + seconds:
            replies = run(*(make_put(sha, done + turn, body) for turn in range(BATCH)))
            assert set(replies) == {b"taken"}
            done += BATCH
        rate = done / (time.perf_counter() - begun)
        run(write("SET", "jobproxy:claim:" + "0" * 32, "x" * 54, "PX", 86_400_000))
        run(write("SET", "jobproxy:note:" + "0" * 38, "x" * 60, "PX", 86_400_000))
        keys = {
            f"a result of {size} bytes": f"jobproxy:result:{0:038}",
            "a claim": "jobproxy:claim:" + "0" * 32,
            "a note": "jobproxy:note:" + "0" * 38,
        }
        memory = {name: int(run(write("MEMORY", "USAGE", key))[0]) for name, key in keys.items()}
        os.kill(listening, 9)
        os.waitpid(listening, 0)
        reader.close()
        return Costs(rate, memory)


def make_put(sha: str, number: int, body: bytes) -> bytes:
    job_id = f"{number:038}"
    keys = (f"jobproxy:result:{job_id}", "jobproxy:orphans", "jobproxy:nodes")
    head = f'["result","{job_id}","node-two"]\n'
    args = (body, 300_000, job_id, "unheard", head, "jobproxy:0:all", "jobproxy:0:node:")
    return write("EVALSHA", sha, 3, *keys, *args, "node-one")


def read(reader: "socket.SocketIO | object") -> bytes:
    """Read one reply, which must not be an array."""
    line = reader.readline()  # type: ignore[union-attr]
    if line[:1] == b"$":
        data: bytes = reader.read(int(line[1:]) + 2)  # type: ignore[union-attr]
        return data[:-2]
    assert line[:1] != b"-", line
    reply: bytes = line[1:-2]
    return reply


def main() -> None:
    """Measure, calculate, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rate", type=int, default=1_000, help="jobs per second and node; %(default)s"
    )
    parser.add_argument("--size", type=int, default=500, help="bytes of a result; %(default)s")
    parser.add_argument(
        "--retain", type=int, default=300, help="seconds that results are retained; %(default)s"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="seconds to measure; %(default)s"
    )
    arguments = parser.parse_args()
    costs = measure(arguments.size, arguments.seconds)
    print(f"one Redis on this machine stores and publishes {costs.puts:,.0f} results per second")
    for name, size in costs.memory.items():
        print(f"{name} takes {size} bytes")
    result, claim, _ = costs.memory.values()
    print(f"\nwith {arguments.rate:,} jobs per second and node, with callbacks to any node:")
    print(
        f"{'nodes':>6} {'elsewhere':>10} {'results/s':>10} {'of a Redis':>10} {'kept GiB':>9}"
        f" {'beats/s':>8} {'to catch up':>12} {'keyed GiB':>10}"
    )
    for nodes in NODES:
        elsewhere = 1 - 1 / nodes
        rate = nodes * arguments.rate * elsewhere
        kept = rate * arguments.retain * result / 2**30
        keyed = nodes * arguments.rate * arguments.retain * (result + claim) / 2**30
        catching_up = nodes * -(-arguments.rate // CHUNK)
        print(
            f"{nodes:>6,} {elsewhere:>10.1%} {rate:>10,.0f} {rate / costs.puts:>10.1f}"
            f" {kept:>9.1f} {nodes / Times().beat:>8,.0f} {catching_up:>12,} {keyed:>10.1f}"
        )
    print(f"\nthe capacity of one Redis is {costs.puts / arguments.rate:,.0f} such nodes")


if __name__ == "__main__":
    main()
