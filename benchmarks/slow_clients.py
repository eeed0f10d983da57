"""The effect of slow clients on others.

Thousands of clients send one byte of a request per second (``slowloris``) while jobclient runs 50
jobs. Prints after how long the slow clients were closed, and how long the jobs took without and
with them.
"""

import argparse
import asyncio
import json
import time
from contextlib import suppress

from jobproxy.daemon.process import raise_file_limit
from jobproxy.sandbox.processes import find_script, run_pair

REQUEST = b"POST /proxy HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\nX-Slow: "


async def crawl(port: int) -> float:
    """Send a byte per second until the connection is closed; return the seconds until then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun = time.monotonic()
    closed = asyncio.ensure_future(reader.read())
    for byte in REQUEST + b"x" * 100:
        with suppress(ConnectionError):
            writer.write(bytes([byte]))
        done, _ = await asyncio.wait([closed], timeout=1)
        if done:
            break
    writer.close()
    return time.monotonic() - begun


async def run_jobs(url: str) -> float:
    """Return the seconds that 50 jobs took."""
    command = [find_script("jobclient"), "--url", url, "--account", "example", "--json"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    report = json.loads(output)
    if report["failed"]:
        raise SystemExit(f"jobs failed: {report['errors']}")
    total: float = report["total"]
    return total


async def measure(count: int) -> None:
    with run_pair({}, {}) as (_, proxy):
        url = f"{proxy.url}/proxy"
        alone = await run_jobs(url)
        crawling = [asyncio.ensure_future(crawl(proxy.port)) for _ in range(count)]
        await asyncio.sleep(2)
        together = await run_jobs(url)
        times = await asyncio.gather(*crawling)
    print(f"{count} slow clients, closed after {min(times):.2f} to {max(times):.2f} s")
    print(f"50 jobs: {alone:.2f} s without them, {together:.2f} s with them")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--clients", type=int, default=2000, help="number of slow clients; %(default)s"
    )
    raise_file_limit()
    asyncio.run(measure(parser.parse_args().clients))


if __name__ == "__main__":
    main()
