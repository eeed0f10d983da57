"""How Sphinx builds these documents; nothing here needs the network."""

import re
from typing import Any

from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from jobproxy import __version__
from jobproxy.jobs.record import TRANSITIONS, Event, State
from jobproxy.profiles.fields import FIELDS

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


class ProfileFields(Directive):
    """The keys of a profile, as the code has them."""

    def run(self) -> list[Any]:
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 28 14 22 36", ""]
        rows = [["key", "value", "default", "meaning"]]
        rows += [[f"``{f.name}``", f.kind, _code(f.default), _code(f.meaning)] for f in FIELDS]
        for row in rows:
            lines += [
                f"   {'* -' if not column else '  -'} {cell}" for column, cell in enumerate(row)
            ]
        node = self.state.parent.__class__()
        self.state.nested_parse(StringList(lines, "profile-fields"), self.content_offset, node)
        return list(node.children)


def _code(text: str) -> str:
    """Return a text with its expressions and options as code."""
    return re.sub(r"(\$[\w.#/]+|--[\w-]+|\{\w+\*?\})", r"``\1``", text)


def setup(app: Any) -> None:
    app.add_directive("job-transitions", JobTransitions)
    app.add_directive("profile-fields", ProfileFields)
