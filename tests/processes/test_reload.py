"""SIGHUP: what is read anew, while clients are held."""

import signal
from pathlib import Path

import pytest

from jobproxy.wire.tokens import TokenSigner
from tests.support.identities import ADDRESS, authority, issue
from tests.support.socket_client import request, result_of
from tests.support.stage import Stage, run_stage
from tests.support.waiting import wait_until

OLD, NEW = "an old key of thirty-two bytes or more", "a new key of thirty-two bytes or more"


def sign(callback: str) -> tuple[bool, bool]:
    """Return whether the token of a callback URL has the old key, and whether the new one."""
    token = callback.rpartition("/")[2]
    old, new = (TokenSigner([key.encode()]).verify(token) is not None for key in (OLD, NEW))
    return old, new


def hang_up(stage: Stage, *words: str) -> None:
    """Send SIGHUP, and wait until the log has each of some lines once more."""
    before = [stage.proxy.log.count(each) for each in words]
    stage.proxy.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: all(
            stage.proxy.log.count(each) > count for each, count in zip(words, before, strict=True)
        )
    )


@pytest.mark.parametrize("text", [f"{NEW}\n{OLD}\n", f"{NEW}\n"], ids=["rotated", "replaced"])
def test_keys_are_read_anew_and_no_client_is_lost(tmp_path: Path, text: str) -> None:
    """G14: SIGHUP reads the keys anew; an old token counts as long as its key is there."""
    secret = tmp_path / "secret"
    secret.write_text(OLD)
    with run_stage(secret_file=str(secret)) as stage:
        (held,) = stage.hold(0)
        secret.write_text(text)
        stage.proxy.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "has new keys" in stage.proxy.log)
        (other,) = stage.hold(1)
        assert sign(stage.server.callbacks[0]) == (True, False)
        assert sign(stage.server.callbacks[1]) == (False, True)
        assert stage.call_back(1).status == 200
        assert other.receive().body == result_of(1)
        assert stage.call_back(0).status == (200 if OLD in text else 404)
        if OLD in text:
            assert held.receive().body == result_of(0)
        else:
            assert not held.has_response()


def test_bad_keys_change_nothing(tmp_path: Path) -> None:
    """G14: a file that is wrong is said in the log, and the old keys stay."""
    secret = tmp_path / "secret"
    secret.write_text(OLD)
    with run_stage(secret_file=str(secret)) as stage:
        (held,) = stage.hold(0)
        secret.write_text("short")
        for _ in range(3):
            stage.proxy.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "what was read before stays" in stage.proxy.log)
        assert stage.call_back(0).status == 200
        assert held.receive().body == result_of(0)


def test_hangup_without_a_file_is_no_harm() -> None:
    """G14: without a file there is nothing to read, and the process goes on."""
    with run_stage() as stage:
        (held,) = stage.hold(0)
        stage.proxy.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "nothing to read again" in stage.proxy.log)
        assert request(f"{stage.proxy.url}/readyz").status == 200
        assert stage.call_back(0).status == 200
        assert held.receive().body == result_of(0)


def test_files_about_the_job_server_are_read_anew(tmp_path: Path) -> None:
    """G14: SIGHUP reads credentials and certificates anew; of a bad file the old content stays."""
    headers, roots, identity, config = (
        tmp_path / name for name in ("headers", "roots.pem", "mine.pem", "jobproxy.toml")
    )
    mine = issue(authority(), ADDRESS)
    headers.write_text("X-Key: first")
    roots.write_bytes(authority().pem)
    identity.write_bytes(mine.pem + mine.key_pem)
    config.write_text("wait = 3600")
    with run_stage(
        job_server_header_file=str(headers),
        upstream_ca=str(roots),
        upstream_certificate=str(identity),
        config=str(config),
    ) as stage:
        stage.hold(0)
        headers.write_text("X-Key: second")
        good = [f"{path} is read again" for path in (headers, roots, identity)]
        hang_up(stage, *good, "what --config names is read at the start alone")
        stage.hold(1)
        headers.write_text("second")
        roots.write_bytes(b"")
        identity.unlink()
        hang_up(
            stage,
            f"--job-server-header-file names {headers}, whose line 1 must be like Name: value; "
            "what was read before stays",
            f"--upstream-ca names {roots}, which has no certificate in PEM; what was",
            f"--upstream-certificate names {identity}, which cannot be read: No such file",
        )
        stage.hold(2)
        assert [stage.server.headers[n]["X-Key"] for n in range(3)] == ["first", "second", "second"]
        assert "Traceback" not in stage.proxy.log
        for number in range(3):
            assert stage.call_back(number).status == 200
