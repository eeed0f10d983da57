"""What the API of a profile says: acks, callbacks, what is polled, results.

Each is made of the expressions that the profile reads it with.
"""

import json
import re
from typing import Any

from attrs import define, field

from jobproxy.profiles.expressions import Source, Template
from jobproxy.profiles.messages import Scope
from jobproxy.profiles.profile import MessageRule, Profile
from jobproxy.sandbox.profile_drafts import Draft
from jobproxy.sandbox.profile_file import ProfileFile
from jobproxy.sandbox.profile_words import (
    Vocabulary,
    choose_ack_word,
    choose_callback_words,
    choose_poll_words,
)


class NotSimulated(ValueError):
    """A profile is one that the simulator cannot speak; the message says why."""


@define(eq=False)
class MessageMaker:
    """Makes the messages of a profile's API."""

    _file: ProfileFile
    callback_words: Vocabulary = field(init=False)
    _poll_words: Vocabulary | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.callback_words = choose_callback_words(self._file)
        self._poll_words = choose_poll_words(self._file) if self.profile.poll else None

    @property
    def profile(self) -> Profile:
        return self._file.profile

    @property
    def is_thin(self) -> bool:
        """Whether the result has to be fetched after a callback."""
        return self.profile.callback.url is not None

    def make_ack(self, job_id: str, base: str) -> Draft:
        """Return the ack of a job.

        :param base: of the URLs in it, without a slash at the end.
        :raises NotSimulated: if no id can be read from it.
        """
        rule, draft = self.profile.ack, Draft(201)
        if rule.accepted is not None:
            expression, values = rule.accepted
            draft.put(expression, _read_constant(min(values)))
        draft.put(rule.id, self._write_id(job_id, base))
        draft.put(rule.state, choose_ack_word(self.profile, self.callback_words))
        for purpose, template in self._templates:
            _put_urls(draft, template, Source.RESPONSE, f"{base}/simulator/{purpose}", job_id)
        if draft.tree is None and draft.status == 201:
            draft.status = 202
        return draft

    def make_callback(self, job_id: str, named: str | None, base: str, state: str) -> Draft:
        """Return a callback.

        :param named: the id in the ack.
        :param state: ``progress``, ``succeeded``, ``failed`` or ``cancelled``.
        """
        rule, draft = self.profile.callback, Draft()
        draft.put(rule.id, named)
        draft.put(rule.state, getattr(self.callback_words, state))
        if rule.url is not None:
            _put_urls(draft, rule.url, Source.MESSAGE, f"{base}/simulator/result", job_id)
        if rule.url is None and state != "progress":
            self._add_end(draft, rule, job_id, state)
        return draft

    def make_poll(self, job_id: str, base: str, state: str) -> Draft:
        """Return what a poll brings; 503 if the profile has no word for a job that goes on."""
        assert self.profile.poll is not None
        rule, draft = self.profile.poll.reads, Draft()
        word = getattr(self._poll_words, state)
        if word is None and state == "progress":
            draft.status = 503
            return draft
        draft.put(rule.state, word)
        if rule.url is not None:
            _put_urls(draft, rule.url, Source.MESSAGE, f"{base}/simulator/result", job_id)
        if state != "progress":
            self._add_end(draft, rule, job_id, state)
        return draft

    def make_result(self, job_id: str, state: str) -> Draft:
        """Return what is fetched after a thin message."""
        draft = Draft()
        draft.add(("output",), _describe(job_id, state))
        return draft

    @property
    def _templates(self) -> list[tuple[str, Template]]:
        """The URLs that the profile makes of an ack, by purpose."""
        profile = self.profile
        found = [
            ("poll", profile.poll.url if profile.poll else None),
            ("cancel", profile.cancel.url if profile.cancel else None),
            ("result", profile.callback.url),
            ("result", profile.poll.reads.url if profile.poll else None),
        ]
        return [(purpose, template) for purpose, template in found if template is not None]

    def _write_id(self, job_id: str, base: str) -> str:
        """Return a text in which the profile finds an id."""
        pattern, expression = self.profile.ack.id_pattern, self.profile.ack.id
        is_url = any(template.parts[0] == expression for _, template in self._templates)
        if pattern is None:
            return f"{base}/simulator/poll/{job_id}" if is_url else job_id
        before, _, behind = re.split(r"(\((?!\?).*?\))", pattern.pattern, maxsplit=1)
        literal = re.sub(r"[\^$]|\\(?=[^\w])", "", f"{before}{job_id}{behind}")
        for text in (job_id, literal, f"{base}{literal}"):
            match = pattern.search(text)
            if match and match[1] == job_id and (not is_url or text.startswith("http")):
                return text
        raise NotSimulated(f"no id can be made for id-pattern {pattern.pattern!r}")

    def _add_end(self, draft: Draft, rule: MessageRule, job_id: str, state: str) -> None:
        """Put the result, or what has happened instead, into a message."""
        value = _describe(job_id, state)
        if state == "succeeded" and rule.body is not None and rule.body.text != "$message.payload":
            draft.put(rule.body, {"output": value})
        elif draft.tree is None:
            draft.add((), value)
        elif isinstance(draft.tree, dict):
            draft.add(("output" if state == "succeeded" else "error",), value)


def read_name(profile: Profile, scope: Scope) -> str | None:
    """Return the id that a profile reads from an ack."""
    rule = profile.ack
    found = None if rule.id is None else rule.id.find(scope)
    match = rule.id_pattern.search(found) if found and rule.id_pattern else None
    return match[1] if match else found


def _put_urls(draft: Draft, template: Template, source: Source, url: str, job_id: str) -> None:
    """Put what a URL template needs of a message into it."""
    for number, part in enumerate(template.parts):
        if not isinstance(part, str) and part.source is source:
            draft.put(part, f"{url}/{job_id}" if number == 0 else job_id)


def _describe(job_id: str, state: str) -> str:
    return f"result of {job_id}" if state == "succeeded" else f"job {job_id} is {state}"


def _read_constant(text: str) -> Any:
    """Return a value of which an expression gives this text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
