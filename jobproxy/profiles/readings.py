"""What the messages of a job say, by its profile.

The words of the job server become three: ``running``, ``completed`` and ``failed``.
"""

import re

from attrs import frozen

from jobproxy.profiles.messages import Message, Scope
from jobproxy.profiles.profile import MessageRule, Profile, Words
from jobproxy.wire.bodies import JSON_TYPE, guess_type
from jobproxy.wire.reports import ENDED, MAX_ID, Report

RUNNING, COMPLETED, FAILED = "running", "completed", "failed"
_TEXT_TYPE = b"text/plain; charset=utf-8"
#: The longest text that a pattern of a profile is tried on.
MAX_MATCHED = 2_048
#: Characters that can be neither in a log line nor in a header.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@frozen
class Reading:
    """A callback, or a poll's response.

    :param report: with the state in our words.
    :param word: the state as it came, if there is one.
    :param is_known: whether the profile says what the word means.
    :param result_url: where the result is, if the message is thin.
    """

    report: Report
    word: str | None = None
    is_known: bool = True
    result_url: str | None = None


def is_accepted(profile: Profile, scope: Scope) -> bool:
    """Whether a successful response to a start says that it was started."""
    if profile.ack.accepted is None:
        return True
    expression, values = profile.ack.accepted
    return (expression.find(scope) or "").lower() in values


def read_ack(profile: Profile, scope: Scope) -> Report:
    """Return the ack in a successful response to a start.

    A word that is an end of a job makes it the result, with what the client gets.

    :param scope: with the request and the response.
    """
    rule, response = profile.ack, scope.response
    assert response is not None
    upstream_id = None if rule.id is None else rule.id.find(scope)
    if upstream_id is not None and rule.id_pattern is not None:
        match = rule.id_pattern.search(upstream_id[:MAX_MATCHED])
        upstream_id = match[1] if match else None
    word = None if rule.state is None else rule.state.find(scope)
    state = _find_end(word, profile.callback.words)
    if state is None:
        return _report(response, upstream_id, None if word is None else RUNNING, 200)
    result = Scope(scope.request, response, response)
    return _make_result(profile, profile.callback, result, upstream_id, state)


def find_named_id(rule: MessageRule, message: Message) -> str | None:
    """Return the id of the job that a callback, or a poll's response, names."""
    return None if rule.id is None else _check_id(rule.id.find(Scope(message=message)))


def read_message(
    profile: Profile, rule: MessageRule, scope: Scope, *, is_poll: bool = False
) -> Reading:
    """Return what a callback, or a poll's response, says.

    :param scope: with the message; and with the request and the ack, if they are known.
    :param is_poll: a page without a state, like one to log in, is no end then.
    """
    message = scope.message
    assert message is not None
    upstream_id = None if rule.id is None else rule.id.find(scope)
    word = None if rule.state is None else rule.state.find(scope)
    state, is_known = classify(word, rule.words)
    if is_poll and word is None and rule.state is not None:
        state, is_known = RUNNING, False
    if state == RUNNING:
        return Reading(_report(message, upstream_id, state, 200), word, is_known)
    url = None
    if rule.url is not None and (state == COMPLETED or profile.fetch_failed):
        url = rule.url.render_url(scope)
    return Reading(
        _make_result(profile, rule, scope, upstream_id, state), word, is_known, result_url=url
    )


def classify(word: str | None, words: Words) -> tuple[str, bool]:
    """Return what a word means, and whether the profile says so; no word is the end."""
    if word is None:
        return COMPLETED, True
    found = word.lower()
    if found in words.progress:
        return RUNNING, True
    if found in words.succeeded:
        return COMPLETED, True
    if found in words.failed:
        return FAILED, True
    if words.succeeded and words.failed:
        return RUNNING, False
    return (FAILED, True) if words.succeeded else (COMPLETED, True)


def make_fetched(thin: Report, message: Message) -> Report:
    """Return the result that a GET has brought after a thin callback."""
    return _report(message, thin.upstream_id, thin.state, thin.status or 200)


def _find_end(word: str | None, words: Words) -> str | None:
    """Return how a job has ended that has not run at all; most words say that it has not ended."""
    if word is None:
        return None
    found = word.lower()
    if found in words.succeeded:
        return COMPLETED
    if found in words.failed:
        return FAILED
    is_usual = not (words.succeeded or words.failed) and found in ENDED
    return COMPLETED if is_usual else None


def _make_result(
    profile: Profile, rule: MessageRule, scope: Scope, upstream_id: str | None, state: str
) -> Report:
    message = scope.message
    assert message is not None
    status = profile.failed_status if state == FAILED else 200
    expression = rule.body
    if expression is None or (expression.part == "body" and not expression.names):
        return _report(message, upstream_id, state, status)
    if expression.part == "body":
        text, content_type = message.find_text(expression.names), JSON_TYPE
    else:
        text, content_type = expression.find(scope), _TEXT_TYPE
    if text is None:
        # A failed job often has no result in its message, but a reason.
        return _report(message, upstream_id, state, status)
    return Report(
        text.encode("utf-8", "replace"), _check_id(upstream_id), state, content_type, b"", status
    )


def _report(
    message: Message,
    upstream_id: str | None,
    state: str | None,
    status: int,
) -> Report:
    coding = message.headers.get(b"content-encoding", b"")
    content_type = message.content_type or guess_type(is_object=message.is_object)
    return Report(message.body, _check_id(upstream_id), state, content_type, coding, status)


def _check_id(upstream_id: str | None) -> str | None:
    is_good = upstream_id and len(upstream_id) <= MAX_ID and not _CONTROL.search(upstream_id)
    return upstream_id if is_good else None
