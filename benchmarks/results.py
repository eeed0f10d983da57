"""The results of a comparison: medians, ratios, and a table."""

from collections.abc import Iterable
from statistics import median

from attrs import define, field, frozen

Figures = dict[str, float]


@frozen
class Row:
    """A line of the table.

    :param key: the name of its figure.
    :param digits: decimal places.
    """

    key: str
    label: str
    digits: int


ROWS = (
    Row("cpu_us", "CPU µs per job", 0),
    Row("throughput", "jobs per second", 0),
    Row("p50_ms", "added latency p50, ms", 2),
    Row("p99_ms", "added latency p99, ms", 2),
    Row("held_kib", "KiB per held client", 1),
)


@define
class Results:
    """The figures of all runs.

    :ivar runs: for each gateway, the figures of its runs, in order.
    :ivar pairs: for each peer and each alternation, the figures of jobproxy and of the peer.
    :ivar memory: for each gateway, ``held_kib``.
    """

    runs: dict[str, list[Figures]] = field(factory=dict)
    pairs: dict[str, list[tuple[Figures, Figures]]] = field(factory=dict)
    memory: dict[str, Figures] = field(factory=dict)

    def medians(self) -> dict[str, Figures]:
        """Return the median figures of each gateway."""
        return {
            name: {key: median(run[key] for run in runs) for key in runs[0]}
            | self.memory.get(name, {})
            for name, runs in self.runs.items()
        }

    def ratios(self) -> dict[str, Figures]:
        """Return the median ratios of jobproxy's figures to each peer's."""
        ratios = {}
        for peer, pairs in self.pairs.items():
            ratios[peer] = {
                row.key: median(_divide(ours[row.key], theirs[row.key]) for ours, theirs in pairs)
                for row in ROWS
                if row.key in pairs[0][0]
            }
            if peer in self.memory:
                ours, theirs = self.memory["jobproxy"], self.memory[peer]
                ratios[peer]["held_kib"] = _divide(ours["held_kib"], theirs["held_kib"])
        return ratios

    def total(self, key: str) -> dict[str, int]:
        """Return the sum of a figure over all runs of each gateway, with the memory run."""
        return {
            name: int(sum(run[key] for run in [*runs, self.memory.get(name, {key: 0})]))
            for name, runs in self.runs.items()
        }


def _divide(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else float("nan")


def print_table(results: Results) -> None:
    """Print the medians and the ratios."""
    names = list(results.runs)
    medians, ratios = results.medians(), results.ratios()
    print(_make_line("median", names))
    for row in ROWS:
        figures = [medians[name].get(row.key) for name in names]
        cells = ["-" if figure is None else f"{figure:,.{row.digits}f}" for figure in figures]
        print(_make_line(row.label, cells))
    waits = [median(run["waited"] for run in runs) for runs in results.runs.values()]
    print(_make_line("waited for the CPU, %", [f"{wait * 100:.0f}" for wait in waits]))
    print(_make_line("lost jobs", map(str, results.total("lost").values())))
    print(_make_line("errors", map(str, results.total("errors").values())))
    if not ratios:
        return
    print()
    print(_make_line("jobproxy : peer", ["", *ratios]))
    for row in ROWS:
        cells = [
            f"{figures[row.key]:.2f}" if row.key in figures else "-" for figures in ratios.values()
        ]
        print(_make_line(row.label, ["", *cells]))


def _make_line(label: str, cells: Iterable[str]) -> str:
    return label.ljust(24) + "".join(f"{cell:>12}" for cell in cells)
