"""Draws the output of ``overload.py --json``: jobs offered, done and refused per second."""

import argparse
import json
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 640, 260
LEFT, TOP, RIGHT, BOTTOM = 60, 40, 110, 30
LINES = (("offered", "#9aa5b1"), ("refused", "#c47f17"), ("good", "#1f6f54"))
WORDS = {"offered": "offered", "refused": "refused", "good": "done"}


def draw(document: dict[str, Any]) -> str:
    """Return the chart as SVG."""
    seconds = document["seconds"]
    most = max(second["offered"] for second in seconds)
    across, up = (WIDTH - LEFT - RIGHT) / (len(seconds) - 1), (HEIGHT - TOP - BOTTOM) / most
    base = HEIGHT - BOTTOM

    def locate(index: int, value: float) -> str:
        return f"{LEFT + index * across:.1f},{base - value * up:.1f}"

    parts = [f'<text x="16" y="20" class="title">Jobs per second, and {_describe(document)}</text>']
    for share in (0, 0.5, 1):
        y = base - share * most * up
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * most:,.0f}</text>'
        )
    for name, color in LINES:
        points = " ".join(locate(index, second[name]) for index, second in enumerate(seconds))
        parts.append(f'<polyline points="{points}" stroke="{color}"/>')
        middle = seconds[len(seconds) // 2][name]
        y = base - middle * up + 4
        parts.append(
            f'<text x="{WIDTH - RIGHT + 8}" y="{y:.1f}" fill="{color}">{WORDS[name]}</text>'
        )
    for index in range(0, len(seconds), 5):
        x = LEFT + index * across
        parts.append(f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{index} s</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n'
        "<title>Jobs offered, done and refused per second of an overload</title>\n"
        "<style>text{font:12px sans-serif}.title{font-weight:bold;font-size:13px}"
        "polyline{fill:none;stroke-width:2}line{stroke:#ddd}</style>\n"
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _describe(document: dict[str, Any]) -> str:
    refused = document["refusal_p99"] * 1000
    return f"99 % of refusals within {refused:.0f} ms"


def main() -> None:
    """Read the figures and write the chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path, help="the output of overload.py --json")
    parser.add_argument("chart", type=Path, help="the SVG to write")
    arguments = parser.parse_args()
    document = json.loads(arguments.figures.read_text(encoding="utf-8"))
    arguments.chart.write_text(draw(document), encoding="utf-8")


if __name__ == "__main__":
    main()
