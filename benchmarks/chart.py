"""Draws the output of ``compare.py --json``: an SVG with two groups of bars."""

import argparse
import json
from html import escape
from pathlib import Path
from typing import Any

from attrs import frozen

WIDTH = 640
LABEL = 90
BAR_MAX = 450
BAR = 20
STEP = 28
#: The colors of jobproxy and of its peers.
COLORS = ("#1f6f54", "#9aa5b1")


@frozen
class Panel:
    """A group of bars.

    :param key: the figure's name in the medians.
    :param digits: decimal places.
    """

    key: str
    title: str
    digits: int


PANELS = (
    Panel("cpu_us", "CPU time per job, µs (less is better)", 0),
    Panel("held_kib", "Memory per held client, KiB (less is better)", 1),
)


def draw(document: dict[str, Any]) -> str:
    """Return the chart as SVG."""
    parts: list[str] = []
    y = 24
    for panel in PANELS:
        figures = {
            name: figures[panel.key]
            for name, figures in document["medians"].items()
            if panel.key in figures
        }
        if figures:
            parts += _draw_panel(panel, figures, y)
            y += STEP * len(figures) + 48
    machine = document["machine"]
    note = f"{machine['cpu']}, one CPU; Python {machine['python']}"
    if machine["node"]:
        note += f", Node {machine['node'].removeprefix('v')}"
    parts.append(_draw_text(16, y, note, "note"))
    height = y + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">\n'
        "<title>CPU time per job and memory per held client, by gateway</title>\n"
        "<style>text{font:13px sans-serif;fill:#222}.title{font-weight:bold}"
        ".note{font-size:11px;fill:#666}</style>\n"
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _draw_panel(panel: Panel, figures: dict[str, float], y: int) -> list[str]:
    parts = [_draw_text(16, y, panel.title, "title")]
    most = max(*figures.values(), 0.001)
    for name, figure in figures.items():
        width = max(1, round(max(figure, 0) / most * BAR_MAX))
        top = y + 10
        color = COLORS[name != "jobproxy"]
        parts += [
            _draw_text(16, top + 15, name),
            f'<rect x="{LABEL}" y="{top}" width="{width}" height="{BAR}" fill="{color}"/>',
            _draw_text(LABEL + width + 6, top + 15, f"{figure:,.{panel.digits}f}"),
        ]
        y += STEP
    return parts


def _draw_text(x: int, y: int, text: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{name}>{escape(text)}</text>'


def main() -> None:
    """Read the figures and write the chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path, help="the output of compare.py --json")
    parser.add_argument("chart", type=Path, help="the SVG to write")
    arguments = parser.parse_args()
    document = json.loads(arguments.figures.read_text(encoding="utf-8"))
    arguments.chart.write_text(draw(document), encoding="utf-8")


if __name__ == "__main__":
    main()
