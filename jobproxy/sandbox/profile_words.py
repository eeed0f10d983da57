"""The words for the states of a job, chosen so that a profile reads in them what is meant."""

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from jobproxy.profiles.profile import Profile, Words
from jobproxy.profiles.readings import COMPLETED, FAILED, RUNNING, classify
from jobproxy.sandbox.profile_file import ProfileFile


@frozen
class Vocabulary:
    """The words that are used; :data:`None`: the profile has none for it."""

    progress: str | None
    succeeded: str | None
    failed: str | None
    cancelled: str | None


def choose_callback_words(file: ProfileFile) -> Vocabulary:
    """Return the words in callbacks."""
    return _choose(file.profile.callback.words, file.tables.get("callback", {}))


def choose_poll_words(file: ProfileFile) -> Vocabulary:
    """Return the words in what is polled."""
    assert file.profile.poll is not None
    lists = {**file.tables.get("callback", {}), **file.tables.get("poll", {})}
    return _choose(file.profile.poll.reads.words, lists)


def choose_ack_word(profile: Profile, words: Vocabulary) -> str:
    """Return the state in an ack, which says that the job goes on."""
    return words.progress or _pick(("queued", "accepted"), profile.callback.words, RUNNING) or "-"


def _choose(words: Words, lists: Mapping[str, Any]) -> Vocabulary:
    succeeded = _pick((*lists.get("succeeded", ()), "succeeded", "completed"), words, COMPLETED)
    is_status = succeeded is not None and succeeded.isdigit()
    failures = [*lists.get("failed", ()), "500" if is_status else "failed", "failed", "error"]
    cancelled = [word for word in failures if "cancel" in word.lower()]
    return Vocabulary(
        _pick(lists.get("progress", ("running", "pending")), words, RUNNING),
        succeeded,
        _pick(failures, words, FAILED),
        _pick([*cancelled, *failures], words, FAILED),
    )


def _pick(candidates: Iterable[str], words: Words, meaning: str) -> str | None:
    """Return the first word that means something to the profile."""
    return next((word for word in candidates if classify(word, words) == (meaning, True)), None)
