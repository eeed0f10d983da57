"""How Sphinx builds these documents; nothing here needs the network."""

from typing import Any

from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from jobproxy import __version__
from jobproxy.jobs.record import TRANSITIONS, Event, State

project = "jobproxy"
version = release = __version__
project_copyright = "the authors of jobproxy"

extensions: list[str] = []
exclude_patterns: list[str] = []
nitpicky = True
# A quoted word in a sentence is as it came, not as a typographer would have it.
smartquotes = False
highlight_language = "none"

html_theme = "furo"
html_title = f"jobproxy {__version__}"
html_copy_source = False
html_show_sphinx = False


def _name(state: State) -> str:
    return state.name.lower().replace("_", "-")


class JobTransitions(Directive):
    """The state machine of a job, as the code has it: states down, events across."""

    def run(self) -> list[Any]:
        lines = [".. list-table::", "   :header-rows: 1", ""]
        rows = [["", *(event.value for event in Event)]]
        for state, transitions in TRANSITIONS.items():
            cells = (transitions.get(event) for event in Event)
            rows.append([f"*{_name(state)}*", *("" if to is None else _name(to) for to in cells)])
        for row in rows:
            lines += [
                f"   {'* -' if not column else '  -'} {cell}" for column, cell in enumerate(row)
            ]
        node = self.state.parent.__class__()
        self.state.nested_parse(StringList(lines, "job-transitions"), self.content_offset, node)
        return list(node.children)


def setup(app: Any) -> None:
    app.add_directive("job-transitions", JobTransitions)
