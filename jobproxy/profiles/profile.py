"""A profile: how one job server's API is spoken, as frozen values."""

import re
from collections.abc import Sequence

from attrs import field, frozen

from jobproxy.profiles.assignments import Assignment, Base64
from jobproxy.profiles.expressions import Expression, Template
from jobproxy.profiles.paths import PathPattern
from jobproxy.profiles.signatures import Verifier
from jobproxy.wire.refusals import BUSY, REJECTED
from jobproxy.wire.reports import PROGRESS


@frozen
class Words:
    """What the states of a job mean; they are compared without case.

    :param progress: states that change nothing.
    :param succeeded: states of a job that has ended well.
    :param failed: states of a job that has failed.
    """

    progress: frozenset[str] = PROGRESS
    succeeded: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()


@frozen
class StartRule:
    """How a job is started.

    :param url: :data:`None`: that of ``--job-server-url``.
    :param forward: the client's headers that go on, in lower case.
    :param changes: what is set and removed in the client's request.
    :param secrets: those out of files in it, which only the job server may read.
    :param encoded: the parts of it that are a secret, or the callback URL, in another form.
    """

    method: str = "POST"
    url: Template | None = None
    forward: Sequence[str] = ()
    forward_query: bool = False
    changes: Sequence[Assignment] = ()
    busy: frozenset[int] = BUSY
    rejected: frozenset[int] = REJECTED
    secrets: Sequence[str] = field(default=(), repr=False)
    encoded: Sequence[Base64] = ()


@frozen
class AckRule:
    """What the response to a start says.

    :param accepted: an expression and its values in an ack; any other value is a rejection.
    """

    accepted: tuple[Expression, frozenset[str]] | None = None
    id: Expression | None = None
    id_pattern: re.Pattern[str] | None = None
    state: Expression | None = None


@frozen
class MessageRule:
    """What a callback, or a poll's response, says.

    :param id: of the job; :data:`None`: ids are not compared.
    :param body: of the result; :data:`None`: all of the message.
    :param url: of the result after a thin message; :data:`None`: the message has it.
    """

    id: Expression | None
    state: Expression | None
    words: Words
    body: Expression | None = None
    url: Template | None = None


@frozen
class PollRule:
    """How a job server is asked for what became of a job.

    :param after: seconds without a callback until the first time; ``every``: until the next.
    """

    url: Template
    method: str
    after: float
    every: float
    reads: MessageRule


@frozen
class CancelRule:
    """How a job is cancelled."""

    url: Template
    method: str


@frozen
class Limits:
    """Limits of a profile; :data:`None`: those of the options.

    :param wait: seconds that a client is held at most.
    :param retain: seconds that a result is kept.
    :param max_body: bytes.
    :param starts_per_account: start requests at once.
    :param jobs_per_account: jobs at once, until their result.
    :param hosts: that a URL in a message may lead to.
    """

    wait: float | None = None
    retain: float | None = None
    max_body: int | None = None
    starts_per_account: int | None = None
    jobs_per_account: int | None = None
    hosts: frozenset[str] = frozenset()


@frozen
class HeaderNames:
    """The headers that a profile needs of each message, in lower case."""

    request: frozenset[bytes] = frozenset()
    response: frozenset[bytes] = frozenset()
    message: frozenset[bytes] = frozenset()


@frozen
class Profile:
    """How one job server's API is spoken.

    :param name: the stem of its file.
    :param correlates_by_id: whether callbacks come to one URL, and name their job by its id.
    :param callback_methods: of callbacks.
    :param fetch_failed: whether the result of a failed job is fetched, too.
    :param failed_status: of the response to the client of a job that has failed.
    """

    name: str
    path: PathPattern
    methods: Sequence[str]
    account: Expression
    correlates_by_id: bool
    start: StartRule
    ack: AckRule
    callback: MessageRule
    callback_methods: Sequence[str] = ("POST", "PUT")
    verifier: Verifier | None = field(default=None, repr=False)
    fetch_failed: bool = True
    failed_status: int = 200
    poll: PollRule | None = None
    cancel: CancelRule | None = None
    limits: Limits = Limits()
    headers: HeaderNames = HeaderNames()

    @property
    def needs_client_later(self) -> bool:
        """Whether the client's credentials are needed after the start."""
        return bool(self.callback.url or self.poll or self.cancel)
