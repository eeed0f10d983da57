"""Reads profiles: TOML files, checked to the last key."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jobproxy.profiles.fields import NAMES
from jobproxy.profiles.keys import BadProfile, Keys
from jobproxy.profiles.profile import Profile
from jobproxy.profiles.sections import make_profile
from jobproxy.util.toml import BadToml, parse_toml

#: What a profile may be called.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: Where the profiles are that come with jobproxy.
SHIPPED = Path(__file__).parent


def find_profile(name: str) -> Path:
    """Return the path of a profile: a file, or a shipped one by its bare name."""
    shipped = SHIPPED / f"{name}.toml"
    is_bare = "/" not in name and not name.endswith(".toml")
    return shipped if is_bare and shipped.exists() else Path(name)


def list_shipped() -> list[str]:
    """Return the names of the profiles that come with jobproxy."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def read_profile(name: str) -> Profile:
    """Read a profile.

    :param name: of its file, or of a shipped one.
    :raises BadProfile: if it cannot be read, or something in it is wrong.
    """
    path = find_profile(name)
    try:
        text = path.read_text(encoding="utf-8")
        tables = parse_toml(text)
    except FileNotFoundError:
        shipped = ", ".join(list_shipped())
        raise BadProfile(f"{name}: there is no such file; shipped profiles: {shipped}") from None
    except OSError as error:
        raise BadProfile(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadProfile(f"{path}: is not UTF-8") from None
    except BadToml as error:
        raise BadProfile(f"{path}: is not TOML: {error}") from None
    if not _NAME.fullmatch(path.stem):
        raise BadProfile(
            f"{path}: the name of the file is part of URLs, so it must have letters, digits, - and "
            "_ only"
        )
    # A shipped profile is in the package, where nobody puts secrets.
    folder = Path() if path.parent == SHIPPED else path.parent
    keys = Keys(path, folder, text, tables)
    for found in _list_keys(tables):
        if found not in NAMES:
            close = get_close_matches(found, NAMES, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise keys.wrong(found, f"there is no such key{hint}")
    return make_profile(path.stem, keys)


def _list_keys(tables: Mapping[str, Any]) -> Iterator[str]:
    """Yield the name of each key, as :data:`NAMES` has it."""
    for name, value in tables.items():
        if not isinstance(value, Mapping):
            yield name
            continue
        for inner, deeper in value.items():
            full = f"{name}.{inner}"
            if full == "callback.verify" and isinstance(deeper, Mapping):
                yield from (f"{full}.{key}" for key in deeper)
            elif full != "start.set":
                yield full
