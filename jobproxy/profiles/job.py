"""A job whose job server is spoken to by a profile."""

from attrs import evolve, field, frozen

from jobproxy.profiles.messages import Message, Scope, read_headers
from jobproxy.profiles.profile import Profile
from jobproxy.profiles.readings import is_accepted, read_ack
from jobproxy.profiles.requests import (
    check_request,
    digest_request,
    make_start,
    read_account,
)
from jobproxy.wire.headers import HeaderSource
from jobproxy.wire.reports import Report
from jobproxy.wire.start_calls import StartCall


@frozen
class ProfileJob:
    """A job as a client sent it.

    :param account: with the name of the profile, as two profiles may have the same accounts.
    :param request: the client's, compact: it may wait for long.
    """

    profile: Profile
    account: str = field(repr=False)
    request: Message = field(repr=False)
    is_held: bool = True
    has_own_callback: bool = False

    @property
    def size(self) -> int:
        return self.request.size

    def digest(self) -> bytes:
        return digest_request(self.profile, self.request.compact())

    def to_start(self, callback_url: str) -> StartCall:
        return make_start(self.profile, self.request.compact(), callback_url)

    def read_ack(self, status: int, response: HeaderSource, body: bytes) -> Report | None:
        headers = read_headers(response, self.profile.headers.response)
        scope = Scope(self.request.compact(), Message(body, headers, status=status))
        if not is_accepted(self.profile, scope):
            return None
        report = read_ack(self.profile, scope)
        if not self.profile.needs_client_later:
            return report
        return evolve(report, messages=scope.compact())


def make_job(profile: Profile, request: Message) -> ProfileJob:
    """Return the job in a client's request.

    :raises ProblemError: if the request is not one of this profile; it says what to change.
    """
    check_request(profile, request)
    account = read_account(profile, request)
    return ProfileJob(profile, f"{profile.name}:{account}", request.compact())
