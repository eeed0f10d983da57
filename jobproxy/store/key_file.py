"""The files with the keys of callback tokens; one is kept beside a store, and outlives restarts."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

from jobproxy.wire.tokens import MIN_KEY

#: Random bytes of a new key.
KEY_SIZE = 32


def read_or_make_keys(path: str, entropy: Callable[[int], bytes]) -> list[bytes]:
    """Return the keys in a file, which is made for its owner alone if there is none.

    :param entropy: returns the given number of random bytes.
    :raises ValueError: if the file can be neither read nor made, or has no key; the message follows
        its name.
    """
    try:
        if not Path(path).exists():
            _make(Path(path), entropy(KEY_SIZE).hex().encode())
    except OSError as error:
        raise ValueError(f"cannot be made: {error.strerror}") from error
    return read_keys(path)


def read_keys(path: str) -> list[bytes]:
    """Return the keys of callback tokens in a file; it has one or two lines.

    :raises ValueError: if it has not, or cannot be read; the message follows its name.
    """
    try:
        keys = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    keys = [key.strip() for key in keys if key.strip()]
    if not 1 <= len(keys) <= 2 or any(len(key) < MIN_KEY for key in keys):
        raise ValueError(f"must have one or two lines of at least {MIN_KEY} bytes each")
    return keys


def _make(path: Path, key: bytes) -> None:
    """Write a whole key, or nothing; the one of another process that was faster stays."""
    found, name = mkstemp(prefix=f"{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(found, "wb") as file:
            file.write(key + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
