"""The command line of ``jobproxyctl``."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import shtab

DEFAULT_ADMIN = "http://127.0.0.1:8082"


def read_admin(text: str) -> str:
    """Check where the admin port is: an HTTP URL, or ``unix:`` and a path."""
    if not text.startswith(("http://", "https://", "unix:")):
        raise argparse.ArgumentTypeError(
            f"must be a URL like {DEFAULT_ADMIN}, or unix:PATH, not {text!r}"
        )
    return text


def read_path(text: str) -> str:
    """Return the path of a store, which may also be written as for ``--store``."""
    return text.removeprefix("sqlite:").partition("?")[0] if text.startswith("sqlite:") else text


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    # For commands that ask no proxy.
    local = argparse.ArgumentParser(add_help=False)
    local.add_argument("--json", action="store_true", help="print JSON")
    local.set_defaults(admin="")
    common = argparse.ArgumentParser(add_help=False, parents=[local])
    common.add_argument(
        "--admin",
        metavar="URL",
        type=read_admin,
        default=os.environ.get("JOBPROXY_ADMIN", DEFAULT_ADMIN),
        help="where the proxy's --admin-listen is: a URL or unix:PATH "
        f"[JOBPROXY_ADMIN; default {DEFAULT_ADMIN}]",
    )
    parser = argparse.ArgumentParser(
        prog="jobproxyctl", description="Show the state of a running jobproxy, or drain it."
    )
    shtab.add_argument_to(parser, "--print-completion", help="print the completions for a shell")
    commands = parser.add_subparsers(metavar="command", required=True)

    def add(
        to: Any, name: str, action: str, text: str, *, is_local: bool = False
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = to.add_parser(
            name, help=text, description=text, parents=[local if is_local else common]
        )
        added.set_defaults(action=action)
        return added

    _add_commands(commands, add)
    return parser


def read_web_url(text: str) -> str:
    """Check that a text is an HTTP URL."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"must be a URL like http://host/path, not {text!r}")
    return text


def _add_commands(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add all commands to the parser, each with the function ``add``."""
    add(commands, "status", "show_status", "show the status of the proxy")
    jobs = add(commands, "jobs", "list_jobs", "list the jobs that have not ended, the oldest first")
    jobs.add_argument(
        "--state",
        choices=["queued", "starting", "running", "unconfirmed"],
        help="list only jobs in this state",
    )
    jobs.add_argument(
        "--limit",
        type=int,
        default=100,
        metavar="N",
        help="list at most N jobs; default %(default)s",
    )
    orphans = commands.add_parser(
        "orphans", help="list, show or drop orphans: results that nobody waited for"
    )
    orphan_commands = orphans.add_subparsers(metavar="command", required=True)
    add(orphan_commands, "list", "list_orphans", "list the orphans, the oldest first")
    for name, action, text in (
        ("show", "show_orphan", "print the result of an orphan; it is kept"),
        ("drop", "drop_orphan", "drop an orphan"),
    ):
        add(orphan_commands, name, action, text).add_argument("job_id", metavar="JOB-ID")
    check = add(
        commands,
        "check-callback",
        "check_callback",
        "check from this machine whether callbacks reach the proxy: run it where the job server is",
        is_local=True,
    )
    check.add_argument("url", metavar="URL", type=read_web_url, help="the proxy's --callback-url")
    store = commands.add_parser("store", help="look at the file of --store sqlite:PATH")
    store_commands = store.add_subparsers(metavar="command", required=True)
    for name, action, text in (
        ("check", "check_store", "check whether the file is sound, and count what is in it"),
        ("export", "export_store", "print all that is in the file, as JSON lines"),
    ):
        added = add(store_commands, name, action, text, is_local=True)
        added.add_argument("path", metavar="PATH", type=read_path)
    _add_profile_commands(commands, add)
    drain = add(
        commands,
        "drain",
        "drain",
        "accept no new jobs, wait for the held clients, and end the process, as SIGTERM does",
    )
    drain.add_argument(
        "--no-wait", action="store_true", help="do not wait until the process has ended"
    )


def _add_profile_commands(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    profile = commands.add_parser("profile", help="check or try a profile: how an API is spoken to")
    to = profile.add_subparsers(metavar="command", required=True)
    check = add(to, "check", "check_profiles", "check profiles, to the last key", is_local=True)
    check.add_argument("files", metavar="FILE", nargs="+")
    trial = add(
        to,
        "try",
        "try_profile",
        "show what a profile makes of messages in files, without a network: the start request that "
        "would be sent, what is read in an ack and a callback, and what the client would get",
        is_local=True,
    )
    trial.add_argument("file", metavar="FILE", help="the profile, or the name of a shipped one")
    trial.add_argument(
        "--request", required=True, metavar="FILE", help="the client's request, as HTTP"
    )
    trial.add_argument("--ack", metavar="FILE", help="the response to the start request")
    trial.add_argument("--callback", metavar="FILE", help="a callback")
