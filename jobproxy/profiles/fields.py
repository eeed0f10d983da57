"""The fields of a profile: their names, what they may be, and what they mean.

The reader checks files by this list, and the reference in the documentation is made from it.
"""

from attrs import frozen


@frozen
class Field:
    """One key of a profile.

    :param name: of the key, in a table: ``start.url``.
    :param kind: what its value is.
    :param default: in words.
    :param meaning: one sentence.
    """

    name: str
    kind: str
    default: str
    meaning: str


#: Every field. A table that is written with ``…`` has keys of the user's choice.
FIELDS = (
    Field("path", "path", "/proxy", "where clients come; {name} is a variable, {name*} the rest"),
    Field("methods", "array", "POST", "the methods of clients"),
    Field(
        "account",
        "expression",
        "$request.body#/account",
        "whose job it is; limits are for each account; 'text' in quotes is the same for all",
    ),
    Field("correlate-by", "text", "token", "how callbacks name their job: token, or id"),
    Field("start.method", "text", "POST", "the method of the start request"),
    Field("start.url", "URL template", "--job-server-url", "where it goes"),
    Field("start.forward", "array", "none", "the client's headers that go on with it"),
    Field("start.forward-query", "boolean", "false", "whether the client's query goes on with it"),
    Field("start.set.…", "value", "none", "what is set in the client's request"),
    Field("start.remove", "array", "none", "the expressions that are removed from it"),
    Field("start.busy", "array", "429, 503", "the statuses that mean: not now"),
    Field(
        "start.rejected",
        "array",
        "4xx but 401, 403, 408, 425, 429",
        "the statuses that mean: never",
    ),
    Field("ack.accepted", "table", "any 2xx", "an expression, and its values in an ack"),
    Field("ack.id", "expression", "$response.body#/id", "the job server's name of the job"),
    Field("ack.id-pattern", "pattern", "none", "its first group is the id"),
    Field("ack.state", "expression", "$response.body#/state", "a final word makes it the result"),
    Field("callback.methods", "array", "POST, PUT", "the methods of callbacks"),
    Field("callback.id", "expression", "$message.payload#/id", "the id of the job"),
    Field("callback.state", "expression", "$message.payload#/state", "the state of the job"),
    Field("callback.progress", "array", "queued, running, …", "the states that change nothing"),
    Field("callback.succeeded", "array", "none", "the states of a job that has ended well"),
    Field("callback.failed", "array", "none", "the states of a job that has failed"),
    Field("callback.verify.scheme", "text", "none", "standard-webhooks, hmac or token"),
    Field("callback.verify.secret-file", "file", "none", "the secret; two lines: both verify"),
    Field("callback.verify.header", "text", "none", "the header with the signature"),
    Field("callback.verify.prefix", "text", "none", "of the header's value"),
    Field("callback.verify.algorithm", "text", "sha256", "sha1, sha256 or sha512"),
    Field("callback.verify.encoding", "text", "hex", "hex or base64"),
    Field("callback.verify.tolerance", "seconds", "300", "by which a signature's time may differ"),
    Field("result.body", "expression", "$message.payload", "what the client gets"),
    Field("result.url", "URL template", "none", "a GET brings the result after a thin callback"),
    Field("result.fetch-failed", "boolean", "true", "whether that is done for failed jobs, too"),
    Field("result.failed-status", "status", "200", "of the response to a failed job's client"),
    Field("poll.url", "URL template", "none", "asks for the job when no callback comes"),
    Field("poll.method", "text", "GET", "the method of that request"),
    Field("poll.after", "seconds", "10", "without a callback until the first poll"),
    Field("poll.every", "seconds", "10", "until the next poll"),
    Field("poll.state", "expression", "callback.state", "the state in a poll's response"),
    Field("poll.progress", "array", "callback.progress", "as for callbacks"),
    Field("poll.succeeded", "array", "callback.succeeded", "as for callbacks"),
    Field("poll.failed", "array", "callback.failed", "as for callbacks"),
    Field("poll.body", "expression", "result.body", "what the client gets of a poll's response"),
    Field("poll.result-url", "URL template", "result.url", "brings the result after a poll"),
    Field("cancel.url", "URL template", "none", "cancels the job"),
    Field("cancel.method", "text", "POST", "the method of that request"),
    Field("limits.wait", "seconds", "--wait", "how long a client is held at most"),
    Field("limits.retain", "seconds", "--retain", "how long a result is kept at least"),
    Field("limits.max-body", "bytes", "--max-body", "of any message"),
    Field("limits.starts-per-account", "number", "--starts-per-account", "start requests at once"),
    Field("limits.jobs-per-account", "number", "none", "jobs at once, until their result"),
    Field("limits.hosts", "array", "that of start.url", "where a URL in a message may lead"),
)

NAMES = frozenset(each.name for each in FIELDS)
