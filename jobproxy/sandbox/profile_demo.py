"""The demo of a profile: a client's request to the proxy, and the response to it."""

import os
import shlex
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from jobproxy.profiles.keys import BadProfile
from jobproxy.profiles.reader import find_profile, list_shipped
from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from jobproxy.sandbox.profile_clients import ClientRequest, make_client_request
from jobproxy.sandbox.profile_file import ProfileFile, list_secret_files, read_profile_file

#: Seconds that the client waits.
TIMEOUT = 60.0


def run_profile_demo(name: str) -> int:
    """Run a profile's proxy and the simulator of its API; return the exit code.

    :param name: of a file, or of a shipped profile.
    :raises BadProfile: if the profile cannot be read.
    """
    path = find_profile(name)
    if not path.exists():
        raise BadProfile(f"{name}: there is no such file; profiles: {', '.join(list_shipped())}")
    text = path.read_text(encoding="utf-8")
    with (
        TemporaryDirectory(prefix="jobproxy-demo-") as folder,
        run_profile(path.stem, text, Path(folder)) as (file, server, proxy),
    ):
        request = make_client_request(file.profile)
        print(f"The API of {path.stem}, simulated on {server.url}.")
        print(f"jobproxy in front of it on {proxy.url}.\n")
        print(f"$ {write_command(proxy.url, request)}", flush=True)
        status, body = send(proxy.url, request)
        print(f"{status}\n{body.decode('utf-8', 'replace')}", flush=True)
        if status != 200:
            print(f"\njobproxy logged:\n{proxy.log}", file=sys.stderr)
    return 0 if status == 200 else 1


@contextmanager
def run_profile(
    name: str,
    text: str,
    folder: Path,
    job_server: Mapping[str, str] = MappingProxyType({}),
    proxy: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[ProfileFile, DaemonProcess, DaemonProcess]]:
    """Run the simulator of a profile's API, and a proxy in front of it.

    :param name: of the profile.
    :param text: of its file.
    :param folder: for its file, and for secrets, which are made up if it needs some.
    :param job_server: more options of the simulator, by name.
    :param proxy: more options of the proxy.
    """
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    # The secrets are those of this folder, whatever this process has itself.
    variables = {"CREDENTIALS_DIRECTORY": str(folder)}
    for secret in list_secret_files(text):
        # In the format of Standard Webhooks, which is a secret of the other schemes, too.
        Path(folder, secret).write_text("whsec_" + b64encode(os.urandom(24)).decode())
    with patched(variables):
        file = read_profile_file(str(path))
    port = find_free_port()
    callback_url = f"http://127.0.0.1:{port}/callback"
    webhook = {"webhook": f"{callback_url}/{name}"} if file.profile.correlates_by_id else {}
    simulated = {"profile": str(path), **webhook, **job_server}
    with DaemonProcess("jobserver", simulated, variables=variables) as server:
        # The simulator has read its own by now.
        path.write_text(file.point_at(server.url), encoding="utf-8")
        settings = {"callback-url": callback_url, "profile": str(path), **proxy}
        with DaemonProcess("jobproxy", settings, port, variables=variables) as front:
            yield file, server, front


@contextmanager
def patched(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of this process while the context lasts."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def write_command(url: str, request: ClientRequest) -> str:
    """Return the command of curl that sends a request."""
    words = ["curl", "-X", request.method, f"{url}{request.target}"]
    for name, value in request.headers.items():
        words += ["-H", f"{name}: {value}"]
    return shlex.join([*words, "-d", request.body.decode()])


def send(url: str, request: ClientRequest) -> tuple[int, bytes]:
    """Send a request; return the status and the body of the response."""
    asked: Any = urllib.request.Request(  # noqa: S310
        f"{url}{request.target}", request.body, request.headers, method=request.method
    )
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT) as response:  # noqa: S310
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
