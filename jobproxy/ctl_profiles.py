"""``jobproxyctl profile``: checks profiles, and tries them on messages in files."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from jobproxy.profiles.http_text import BadText, parse_request, parse_response
from jobproxy.profiles.keys import BadProfile
from jobproxy.profiles.reader import read_profile
from jobproxy.profiles.trial import WrongMessage, try_ack, try_callback, try_request

Kind = TypeVar("Kind")


class FailedTrial(Exception):
    """The profile, or a file, is wrong; the message is one line."""


def check_profiles(names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield for each profile its name, and what is wrong with it; empty: nothing."""
    for name in names:
        try:
            read_profile(name)
        except BadProfile as error:
            yield name, str(error)
        else:
            yield name, ""


def run_trial(name: str, request: str, ack: str | None, callback: str | None) -> Iterator[str]:
    """Yield line by line what a profile makes of messages.

    :param name: of the profile.
    :param request: a file with the client's request; ``ack`` and ``callback`` likewise.
    :raises FailedTrial: if something is wrong.
    """
    try:
        profile = read_profile(name)
        message, lines = try_request(profile, _parse(request, parse_request))
        yield "== start request"
        yield from lines
        answer = None if ack is None else _parse(ack, parse_response)
        if answer is not None:
            yield ""
            yield "== ack"
            yield from try_ack(profile, message, answer)
        if callback is not None:
            yield ""
            yield "== callback"
            found = _parse(callback, parse_request).message
            yield from try_callback(profile, message, answer, found)
    except (BadProfile, WrongMessage) as error:
        raise FailedTrial(str(error)) from None


def _parse(path: str, parse: Callable[[bytes], Kind]) -> Kind:
    try:
        return parse(Path(path).read_bytes())
    except OSError as error:
        raise FailedTrial(f"{path}: cannot be read: {error.strerror}") from None
    except BadText as error:
        raise FailedTrial(f"{path}: {error}") from None
