"""The runbook, as the admin side serves it: the pages of the documents, section by section."""

import re
from html import escape
from importlib.resources import files

#: A heading of the file with its underline.
_HEADING = re.compile(r"^(\w+)\n-+\n", re.MULTILINE)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>jobproxy: runbook</title>
<link rel="stylesheet" href="assets/page.css">
<main class="runbook">
<h1>Runbook</h1>
<p><a href=".">The live page</a></p>
{sections}
</main>
</html>
"""


def read_runbook() -> str:
    """Return the source, in reStructuredText."""
    return files("jobproxy.monitoring").joinpath("runbook.rst").read_text(encoding="utf-8")


def split_sections(source: str) -> dict[str, str]:
    """Return the text of each section by its name."""
    parts = _HEADING.split(source)[1:]
    return dict(zip(parts[::2], map(_plain, parts[1::2]), strict=True))


def _plain(text: str) -> str:
    """Return text without its markup, but with references to sections as ``name_``."""
    text = re.sub(r"^ *\.\. code-block::.*\n\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"``(.+?)``", r"\1", text, flags=re.DOTALL)
    text = re.sub(r":\w+:`(.+?)(?: <.*?>)?`", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"^:([^:\n]+):$", r"\1:", text, flags=re.MULTILINE)
    return re.sub(r"\*+([^*\n]+)\*+", r"\1", text).strip()


def render_runbook(source: str) -> bytes:
    """Return the runbook as a page, with an anchor for each section as in the documents."""
    sections = []
    for name, text in split_sections(source).items():
        shown = re.sub(r"`(\w+)`_", _link, escape(text, quote=False))
        sections.append(f'<h2 id="{name.lower()}">{name}</h2>\n<pre>{shown}</pre>')
    return _PAGE.format(sections="\n".join(sections)).encode()


def _link(match: re.Match[str]) -> str:
    return f'<a href="#{match[1].lower()}">{match[1]}</a>'
