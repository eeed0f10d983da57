"""The simulator of a profile's API: the profile reads in its messages what they are to say."""

from typing import Any
from urllib.parse import urlsplit

import pytest

from jobproxy.profiles.messages import Message, Scope
from jobproxy.profiles.profile import Profile
from jobproxy.profiles.readings import is_accepted, read_ack, read_message
from jobproxy.profiles.requests import make_start
from jobproxy.profiles.signatures import Scheme, Verifier
from jobproxy.sandbox.profile_callbacks import choose_url
from jobproxy.sandbox.profile_clients import make_client_request
from jobproxy.sandbox.profile_drafts import Draft
from jobproxy.sandbox.profile_file import ProfileFile
from jobproxy.sandbox.profile_messages import MessageMaker, NotSimulated, read_name
from jobproxy.sandbox.profile_server import check_simulated
from jobproxy.sandbox.profile_signing import sign, sign_wrongly
from jobproxy.sandbox.profile_starts import StartFinder
from jobproxy.util.toml import parse_toml
from tests.api.test_profiles import WIRES
from tests.support.profiles import URL, parse_profile

CALLBACK_URL = "http://proxy.example/callback/api/token"
BASE = "http://127.0.0.1:9000"
#: The states of jobs as the proxy calls them.
MEANINGS = {"progress": "running", "succeeded": "completed", "failed": "failed"}


def make_file(text: str) -> ProfileFile:
    return ProfileFile(parse_profile(text), text, parse_toml(text))


def start(profile: Profile, content_type: str = "application/json") -> tuple[Message, str]:
    """Return the start request of a profile's client, and its target."""
    asked = make_client_request(profile)
    body = b"a=1" if "form" in content_type else asked.body
    headers = {name.lower().encode(): value.encode() for name, value in asked.headers.items()}
    headers[b"content-type"] = content_type.encode()
    path = dict.fromkeys(profile.path.names, "some")
    call = make_start(profile, Message(body, headers, path=path), CALLBACK_URL)
    lines = {name.lower(): value for name, value in call.headers}
    parts = urlsplit(call.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return Message(call.body, lines, parts.query, method=call.method), target


@pytest.mark.parametrize("name", WIRES)
def test_callback_url_is_found(name: str) -> None:
    """The callback URL is found wherever the profile puts it."""
    profile = parse_profile(WIRES[name])
    content_type = "application/x-www-form-urlencoded" if name == "form" else "application/json"
    message, target = start(profile, content_type)
    finder = StartFinder(profile)
    assert finder.names_callback
    assert finder.matches(target)
    assert not finder.matches("/")
    found = finder.find(message, target)
    both = (f"{CALLBACK_URL}?outcome=ok", f"{CALLBACK_URL}?outcome=error")
    assert found.callback_urls == (both if name == "two_urls" else (CALLBACK_URL,))
    assert found.request.path == dict.fromkeys(profile.path.names, "some") or name == "removed"


@pytest.mark.parametrize("name", WIRES)
def test_profile_reads_the_messages(name: str) -> None:
    """The ack is an ack, and callbacks have its id and the right state."""
    file = make_file(WIRES[name])
    profile, maker = file.profile, MessageMaker(file)
    ack = maker.make_ack("4499a6e0c2ef4b98", BASE)
    scope = Scope(Message(b"{}"), ack.to_message())
    assert ack.status in (201, 202)
    assert is_accepted(profile, scope)
    report = read_ack(profile, scope)
    assert (report.upstream_id, report.is_ended) == ("4499a6e0c2ef4b98", False)
    for state, meaning in MEANINGS.items():
        if getattr(maker.callback_words, state) is None:
            continue
        callback = maker.make_callback("4499a6e0c2ef4b98", read_name(profile, scope), BASE, state)
        reading = read_message(profile, profile.callback, Scope(message=callback.to_message()))
        has_state = profile.callback.state is not None
        assert reading.report.state == (meaning if has_state else "completed")
        assert reading.report.upstream_id in (report.upstream_id, None)
        assert reading.is_known
        if state == "succeeded":
            assert b"result of 4499a6e0c2ef4b98" in reading.report.body


def test_ack_has_the_urls_that_a_profile_takes_out_of_it() -> None:
    """They lead to the simulator, and each to another place."""
    text = """
        path = "/run"
        [start]
        url = "{URL}/run"
        [poll]
        url = "{$response.body#/urls/0/get}"
        [cancel]
        url = "{$response.header.Location}"
        [callback]
        state = "$message.payload#/data/state"
    """
    file = make_file(text)
    scope = Scope(response=MessageMaker(file).make_ack("1", BASE).to_message())
    assert file.profile.poll is not None
    assert file.profile.cancel is not None
    assert file.profile.poll.url.render_url(scope) == f"{BASE}/simulator/poll/1"
    assert file.profile.cancel.url.render_url(scope) == f"{BASE}/simulator/cancel/1"
    assert scope.response is not None
    assert b'"urls":[{"get":' in scope.response.body


def test_url_is_chosen_by_the_outcome_in_its_query() -> None:
    """Another outcome than those of the URLs has none."""
    urls = ("http://a.example/?outcome=ok", "http://a.example/?outcome=error")
    assert choose_url(urls, {"outcome": "error"}) == urls[1]
    assert choose_url(urls, {"outcome": "running"}) is None
    assert choose_url(("http://a.example/",), {"s": "a b"}) == "http://a.example/?s=a+b"
    assert choose_url(urls, {}) == urls[0]


@pytest.mark.parametrize(
    "rest",
    [
        {"scheme": Scheme.STANDARD_WEBHOOKS},
        {"scheme": Scheme.TOKEN, "header": "X-Secret"},
        {"scheme": Scheme.TOKEN, "header": "Authorization", "prefix": "Bearer "},
        {"scheme": Scheme.HMAC, "header": "X-Sign", "prefix": "sha256="},
        {"scheme": Scheme.HMAC, "header": "X-Sign", "algorithm": "sha512", "encoding": "base64"},
    ],
    ids=str,
)
def test_signatures_verify_or_not(rest: dict[str, Any]) -> None:
    """A signature verifies, and a wrong one does not."""
    verifier = Verifier(secrets=[b"first", b"second"], **rest)
    for make, is_right in ((sign, True), (sign_wrongly, False)):
        draft = Draft()
        draft.headers |= make(verifier, b"body", "msg_1", 1_000.5)
        message = Message(b"body", draft.to_message().headers)
        assert verifier.verify(message, 1_001.0) is is_right


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[start]\nurl = "{URL}/run"\n', "there is neither a callback URL"),
        ('correlate-by = "id"\n[start]\nurl = "{URL}/run"\n', "needs --webhook"),
        (
            '[start]\nurl = "{URL}/{$callback.url}"\n[ack]\nid-pattern = "^[0-9]{3}(x)"\n',
            "no id can be made",
        ),
    ],
)
def test_profile_that_cannot_be_simulated(text: str, reason: str) -> None:
    """It is refused with the reason."""
    with pytest.raises(NotSimulated, match=reason):
        check_simulated(make_file(text), None)


def test_profile_leads_to_another_server() -> None:
    """All URLs and the hosts that are allowed are those of the other server."""
    text = """
        [start]
        url = "https://api.example/run/{$request.path.a}"
        [result]
        url = "https://results.example:8443/{$response.body#/id}"
        [limits]
        hosts = ["api.example", "results.example:8443"]
    """
    file = make_file('path = "/{a}"\n' + text)
    changed = file.point_at(URL)
    assert "example" not in changed
    profile = parse_profile(changed)
    assert profile.limits.hosts == {"127.0.0.1:9000"}
    assert profile.start.url is not None
    assert profile.start.url.text == f"{URL}/run/{{$request.path.a}}"
