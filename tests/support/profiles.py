"""Profiles for tests, read from text as from a file."""

from pathlib import Path
from tempfile import TemporaryDirectory

from jobproxy.profiles.profile import Profile
from jobproxy.profiles.reader import read_profile

#: Where the job server in memory is.
URL = "http://127.0.0.1:9000"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def parse_profile(text: str, name: str = "api") -> Profile:
    """Return the profile in a text; ``{URL}`` in it stands for the job server."""
    with TemporaryDirectory() as folder:
        Path(folder, "secret").write_text(SECRET)
        path = Path(folder, f"{name}.toml")
        path.write_text(text.replace("{URL}", URL))
        return read_profile(str(path))
