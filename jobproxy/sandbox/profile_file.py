"""The file of a profile, as the simulator and the demo need it: also with another host in it."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen

from jobproxy.profiles.hosts import place_of
from jobproxy.profiles.profile import Profile
from jobproxy.profiles.reader import find_profile, read_profile
from jobproxy.util.toml import parse_toml

#: The keys with the URLs of the API.
_URLS = (
    ("start", "url"),
    ("result", "url"),
    ("poll", "url"),
    ("poll", "result-url"),
    ("cancel", "url"),
)


@frozen
class ProfileFile:
    """A profile, and its file.

    :param text: of the file.
    :param tables: in it; unlike the profile they have the words in their order, and their case.
    """

    profile: Profile
    text: str = field(repr=False)
    tables: dict[str, Any] = field(repr=False)

    def point_at(self, url: str) -> str:
        """Return the text of a profile that leads to another server than that of the API.

        :param url: of the other server, without a path.
        """
        text, place = self.text, place_of(url)
        for table, key in _URLS:
            template = self.tables.get(table, {}).get(key, "")
            parts = urlsplit(template.partition("{")[0])
            if parts.netloc:
                text = text.replace(f"{parts.scheme}://{parts.netloc}", url)
        for host in self.tables.get("limits", {}).get("hosts", ()):
            text = text.replace(f'"{host}"', f'"{place}"')
        return text


def list_secret_files(text: str) -> list[str]:
    """Return the names of the files with secrets that a profile needs."""
    return sorted(set(_find_files(parse_toml(text))))


def _find_files(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            if name in ("file", "secret-file") and isinstance(member, str):
                yield member
            yield from _find_files(member)
    elif isinstance(value, list):
        for item in value:
            yield from _find_files(item)


def read_profile_file(name: str) -> ProfileFile:
    """Read a profile.

    :param name: of its file, or of a shipped one.
    :raises BadProfile: if it cannot be read, or something in it is wrong.
    """
    profile = read_profile(name)
    text = find_profile(name).read_text(encoding="utf-8")
    return ProfileFile(profile, text, parse_toml(text))
