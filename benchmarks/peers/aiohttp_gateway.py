"""A gateway with aiohttp on uvloop, carefully written.

It has no account limiter, no signed tokens and no strict parsing: only the path of a job.
"""

import argparse
import asyncio
import json
import secrets
from collections.abc import AsyncIterator

import aiohttp  # type: ignore[import-not-found,unused-ignore]
import uvloop  # type: ignore[import-not-found,unused-ignore]
from aiohttp import web  # type: ignore[import-not-found,unused-ignore]

WAIT = 30.0
START_TIMEOUT = 10.0
MAX_STARTS = 256


class Gateway:
    """Holds clients in a table of futures until their callbacks come."""

    def __init__(self, callback_url: str, job_server_url: str) -> None:
        self._callback_url = callback_url
        self._job_server_url = job_server_url
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._session: aiohttp.ClientSession

    async def open_session(self, _: web.Application) -> AsyncIterator[None]:
        """Keep one session, and so one pool of connections, while the application runs."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_STARTS),
            # A cookie set for one account would be sent for the next.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=START_TIMEOUT),
        )
        async with self._session:
            yield

    async def proxy(self, request: web.Request) -> web.Response:
        """Start a job and respond with its callback's body."""
        try:
            job = json.loads(await request.read())
            start = {**job, "wait": False}
        except (ValueError, TypeError):
            return web.json_response({"error": "the body is not a JSON object"}, status=400)
        token = secrets.token_urlsafe(16)
        result = asyncio.get_running_loop().create_future()
        self._waiting[token] = result
        try:
            await self._start({**start, "callback": f"{self._callback_url}/{token}"})
            body = await asyncio.wait_for(result, WAIT)
        except aiohttp.ClientError:
            return web.json_response({"error": "the job could not be started"}, status=502)
        except asyncio.TimeoutError:
            return web.json_response({"error": "the job did not end in time"}, status=504)
        finally:
            del self._waiting[token]
        return web.Response(body=body, content_type="application/json")

    async def _start(self, start: dict[str, object]) -> None:
        async with self._session.post(
            self._job_server_url,
            data=json.dumps(start).encode(),
            headers={"Content-Type": "application/json"},
            raise_for_status=True,
        ) as response:
            # The connection is free for the next start request once the body has been read.
            await response.read()

    async def callback(self, request: web.Request) -> web.Response:
        """Receive the result of a job."""
        body = await request.read()
        result = self._waiting.get(request.match_info["token"])
        if result is None:
            return web.json_response({"error": "nobody waits for this job"}, status=404)
        if not result.done():
            result.set_result(body)
        return web.json_response({"status": "accepted"})


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--callback-url", required=True)
    parser.add_argument("--job-server-url", required=True)
    arguments = parser.parse_args()
    gateway = Gateway(arguments.callback_url, arguments.job_server_url)
    app = web.Application()
    app.cleanup_ctx.append(gateway.open_session)
    app.router.add_post("/proxy", gateway.proxy)
    app.router.add_post("/callback/{token}", gateway.callback)
    web.run_app(
        app,
        host="127.0.0.1",
        port=arguments.port,
        backlog=4096,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
