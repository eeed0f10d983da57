"""The live page as it is first sent: what is known now, also without JavaScript."""

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from time import gmtime, strftime
from typing import Any
from urllib.parse import quote

_SHAPES = {
    "ok": '<circle cx="8" cy="8" r="7" fill="#17804a"/>',
    "degraded": '<path d="M8 1 16 15H0z" fill="#d98c00"/>',
    "down": '<path d="M1 1h14v14H1z" fill="#c22f2f"/>',
    "draining": '<path d="M8 0 16 8 8 16 0 8z" fill="#3c5fa8"/>',
    "no-data": '<circle cx="8" cy="8" r="5.5" fill="none" stroke="#80868e" stroke-width="3"/>',
}
#: The icon of each word, as a URL.
ICONS = {
    word: "data:image/svg+xml,"
    + quote(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{shape}</svg>')
    for word, shape in _SHAPES.items()
}
#: The type of each file that the page needs.
TYPES = {"page.css": "text/css", "page.js": "text/javascript", "chart.js": "text/javascript"}
#: What stands for a number that is not known.
NONE = "\N{EN DASH}"
_HEADS = (
    *("to", "type", "#last minute", "#last hour", "#in all", "first", "last"),
    *("a request", "what to do"),
)


def read_asset(name: str) -> bytes:
    """Return a file of the page."""
    return files("jobproxy.monitoring").joinpath("assets", name).read_bytes()


def render_page(template: str, status: dict[str, Any]) -> bytes:
    """Return the page with a status in it.

    :param template: the page, with ``$`` before the names of what is filled in.
    """
    verdict = status["verdict"]
    word, section = verdict["word"], verdict["runbook"] or ""
    text = {
        "title": f"{word.capitalize()}: jobproxy",
        "icon": ICONS[word],
        "icons": json.dumps(ICONS),
        "word": word,
        "about": f"{status['version']}, up {status['uptime']:.0f} s",
        "text": verdict["text"].removesuffix(section),
        "section": section,
        "runbook": f"runbook#{section.lower()}",
        "time": _show_time(status["time"]),
    }
    filled = {name: escape(value) for name, value in text.items()}
    filled["hidden"] = "" if section else " hidden"
    filled["tiles"] = "".join(_render_tile(*tile) for tile in _list_tiles(status))
    filled["errors"] = _render_errors(status["errors"])
    return Template(template).substitute(filled).encode()


def _list_tiles(status: dict[str, Any]) -> Sequence[tuple[str, str, object, str | None]]:
    """Return the id and the label of each number, the number, and what stands below it."""
    accounts = f"of {status['accounts']['count']:,} accounts"
    return [
        ("held", "clients held", status["held"], f"of {status['maxHeld']:,}"),
        ("rate", "results per second", NONE, None),
        ("p50", "job duration, median", NONE, None),
        ("p99", "job duration, p99", NONE, None),
        ("queued", "jobs queued", status["queued"], accounts),
        ("starting", "start requests under way", status["starting"], None),
        ("refused", "refusals per second", NONE, None),
        ("circuit", "circuit", status["circuit"], None),
        ("orphans", "orphans", status["orphans"], f"{status['retained']:,} results kept here"),
        ("lag", "reactor lag, p99", NONE, None),
    ]


def _render_tile(name: str, label: str, value: object, more: str | None) -> str:
    shown = f"{value:,}" if isinstance(value, int) else escape(str(value))
    below = "" if more is None else f' <span class="dim" id="{name}-more">{escape(more)}</span>'
    return f'<div><dt>{label}</dt><dd><b id="{name}">{shown}</b>{below}</dd></div>\n'


def _render_errors(errors: Sequence[dict[str, Any]]) -> str:
    heads = "".join(_render_cell("th", head, head, ' scope="col"') for head in _HEADS)
    lines = [
        "".join(_render_cell("td", head, cell) for head, cell in zip(_HEADS, row, strict=True))
        for row in map(_list_cells, errors)
    ]
    none = f'<tr><td class="dim" colspan="{len(_HEADS)}">none</td></tr>'
    body = "".join(f"<tr>{line}</tr>" for line in lines) or none
    return f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"


def _list_cells(error: dict[str, Any]) -> list[str]:
    section = error["runbook"]
    link = f'<a href="runbook#{section.lower()}">{section}</a>' if section else ""
    cells = [error["side"] or NONE, f"{error['status']} {error['type']}"]
    cells += [f"{error[name]:,}" for name in ("minute", "hour", "total")]
    cells += [_show_time(error["first"]), _show_time(error["last"]), error["requestId"]]
    return [*map(escape, cells), link]


def _render_cell(tag: str, head: str, shown: str, more: str = "") -> str:
    kind = ' class="number"' if head.startswith("#") else ""
    return f"<{tag}{kind}{more}>{shown.removeprefix('#')}</{tag}>"


def _show_time(unix: float) -> str:
    return strftime("%H:%M:%S", gmtime(unix))
