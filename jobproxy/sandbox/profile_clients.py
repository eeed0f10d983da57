"""The request of a client of a profile: the least that the profile reads in it."""

from urllib.parse import urlencode

from attrs import frozen

from jobproxy.profiles.expressions import Expression, Source
from jobproxy.profiles.parts import find_parts
from jobproxy.profiles.profile import Profile
from jobproxy.sandbox.profile_drafts import Draft

VALUE = "example"
#: A credential in a header.
CREDENTIAL = "Bearer example-credential"


@frozen
class ClientRequest:
    """A request.

    :param target: the path and the query.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def make_client_request(profile: Profile) -> ClientRequest:
    """Return a request that starts a job of a profile."""
    draft = Draft()
    draft.add(("input",), VALUE)
    for name in profile.start.forward:
        draft.headers[name] = CREDENTIAL if "auth" in name else VALUE
    values = [each.value for each in profile.start.changes]
    rules = [profile.account, profile.start.url, values, profile.callback, profile.poll]
    for expression in find_parts([*rules, profile.cancel, profile.ack], Expression):
        if expression.source is Source.REQUEST and expression.name.lower() not in draft.headers:
            draft.put(expression, VALUE)
    segments = [VALUE if is_variable else name for name, is_variable in profile.path.segments]
    target = "/" + "/".join(segments)
    if draft.query:
        target += f"?{urlencode(draft.query)}"
    return ClientRequest(profile.methods[0], target, draft.all_headers, draft.body)
