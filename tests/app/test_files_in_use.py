"""The files that SIGHUP reads again."""

from pathlib import Path
from typing import Any, cast

import pytest
from attrs import define, field

from jobproxy.app.files_in_use import authorities_in
from tests.support.identities import authority


@define(eq=False)
class Port:
    """Notes what it is given."""

    given: list[Any] = field(factory=list)

    def replace_authorities(self, authorities: Any) -> None:
        self.given.append(authorities)


def test_file_is_found_again_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G14: a daemon that has left its folder (``--rundir``) finds a file with a relative path."""
    port = Port()
    monkeypatch.chdir(tmp_path)
    Path("clients.pem").write_bytes(authority().pem)
    file = authorities_in("clients.pem", [cast(Any, port)])
    monkeypatch.chdir("/")
    file.read_again()
    assert [len(each) for each in port.given] == [1]
