"""The key of callback tokens that is kept beside a store, so that tokens outlive a restart."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: Random bytes of a new key.
KEY_SIZE = 32


def read_or_make_key(path: str, entropy: Callable[[int], bytes]) -> bytes:
    """Return the key in a file, which is made for its owner alone if there is none.

    :param entropy: returns the given number of random bytes.
    :raises ValueError: if the file can be neither read nor made, or has no key; the message follows
        its name.
    """
    try:
        if not Path(path).exists():
            _make(Path(path), entropy(KEY_SIZE).hex().encode())
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise ValueError(f"cannot be read or made: {error.strerror}") from error
    if len(key) < KEY_SIZE:
        raise ValueError(f"has fewer than {KEY_SIZE} bytes, so it is no key")
    return key


def _make(path: Path, key: bytes) -> None:
    """Write a whole key, or nothing; the one of another process that was faster stays."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    found = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
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
