"""docs/: options, problems, metrics, alerts and commands are those that exist."""

import ast
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from unittest import mock

import pytest
from twisted.scripts._twistd_unix import ServerOptions

from jobproxy import tap
from jobproxy.daemon.options import Option
from jobproxy.store.key_file import read_keys
from jobproxy.wire.problems import Kind
from tests.support.cluster import ClusterTestCase
from tests.support.programs import needs
from tests.support.waiting import DEADLINE

ROOT = Path(__file__).parents[1]
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.rst")}
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
BLOCK = re.compile(r"^( *)\.\. code-block:: console\n\n((?:\1   .*\n|\n)+)", re.MULTILINE)
QUERY_BLOCK = re.compile(BLOCK.pattern.replace("console", "text"), re.MULTILINE)
#: What the table of problems has in its first three columns.
ROW = re.compile(
    r"^   \* - ([\d, ]+|any 4xx)\n     - ``([a-z-]+)``\n     - (?:no|unknown|yes)", re.MULTILINE
)
#: A section of the runbook: its heading and its text.
SECTION = re.compile(r"^(\w+)\n-+\n((?:.|\n)*?)(?=\n\n\n|\Z)", re.MULTILINE)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
#: The name and the default of each option in the table.
OPTION_ROWS = re.findall(r"   \* - :option:`--([\w-]+)`\n     - (.*)\n", PAGES["options"])
DEFAULTS = {"callback-url": "required", "secret-file": "a random key"}


def read_commands() -> Iterator[str]:
    """Yield each command that is typed into a terminal."""
    for _, text in sorted(PAGES.items()):
        for _, block in BLOCK.findall(text):
            whole = re.sub(r" *\\\n *", " ", block)
            yield from re.findall(r"^ *\$ (.*)$", whole, re.MULTILINE)


def read_queries() -> Iterator[str]:
    """Yield each query of the runbook; it takes one line."""
    for _, block in QUERY_BLOCK.findall(PAGES["runbook"]):
        yield from filter(None, map(str.strip, block.splitlines()))


QUERIES = list(read_queries())
COMMANDS = list(dict.fromkeys(read_commands()))


def split(command: str) -> list[str]:
    """Return the words of a command as its program sees them, without what may come before."""
    words = shlex.split(command)
    while words[0] == "sudo" or "=" in words[0]:
        words.pop(0)
    return [Path(words[0]).name, *words[1:]]


def find_commands(*programs: str) -> list[list[str]]:
    plain = (command.partition(" >> ")[0] for command in COMMANDS)
    return [words for words in map(split, plain) if words[0] in programs]


def read_help(script: str, *subcommand: str) -> str:
    """Return the help of a console script."""
    entry = re.search(rf'"{script} = ([\w.]+):(\w+)"', (ROOT / "setup.py").read_text())
    assert entry is not None, f"there is no {script}"
    printed = io.StringIO()
    words = [script, *subcommand, "--help"]
    with (
        mock.patch.object(sys, "argv", words),
        redirect_stdout(printed),
        pytest.raises(SystemExit) as caught,
    ):
        getattr(import_module(entry[1]), entry[2])()
    assert not caught.value.code, f"there is no {' '.join(words[:-1])}"
    return printed.getvalue()


@pytest.mark.parametrize("option", tap.Options.table, ids=lambda option: option.name)
def test_every_option_is_documented_with_its_default(option: Option) -> None:
    """Each option is documented with its default and when to change it."""
    place = f"docs/options.rst, --{option.name}"
    found = re.findall(
        rf"^\.\. option:: --{option.name}( \w+)?\n\n   Default: (.*)\n\n   (\S.*)",
        PAGES["options"],
        re.MULTILINE,
    )
    assert len(found) == 1, f"{place}: document the option, once: option, Default, description"
    ((argument, default, advice),) = found
    assert bool(argument) != option.is_switch, f"{place}: only a switch has no argument"
    expected = DEFAULTS.get(option.name, option.default or "none")
    assert default.strip("`") == expected, f"{place}: the default is {expected}"
    assert advice, f"{place}: say what it does"


@pytest.mark.parametrize("option", tap.Options.table, ids=lambda option: option.name)
def test_each_option_is_in_the_table(option: Option) -> None:
    """Each option is in the table of all, with its default."""
    place = f"docs/options.rst, table of options, --{option.name}"
    default = dict(OPTION_ROWS).get(option.name)
    assert default is not None, f"{place}: add a row"
    expected = DEFAULTS.get(option.name, option.default or "none")
    assert default.strip("`") == expected, f"{place}: the default is {expected}"


def test_no_other_option_is_in_the_table() -> None:
    """No option is in the table that does not exist, and none is there twice."""
    names = [name for name, _ in OPTION_ROWS]
    unknown = set(names) - {option.name for option in tap.Options.table}
    assert not unknown, f"docs/options.rst: remove {unknown}, which jobproxy/app/options.py lacks"
    assert len(names) == len(set(names)), "docs/options.rst: an option has two rows"


def test_no_other_option_is_documented() -> None:
    """No option is documented that does not exist."""
    documented = re.findall(r"^\.\. option:: --([\w-]+)", PAGES["options"], re.MULTILINE)
    unknown = set(documented) - {option.name for option in tap.Options.table}
    assert not unknown, f"docs/options.rst: remove {unknown}, which jobproxy/app/options.py lacks"
    assert len(documented) == len(set(documented)), "docs/options.rst: an option is there twice"


def test_every_problem_is_documented_with_its_status() -> None:
    """Each problem is in the HTTP reference with its status, and no other is."""
    upstream = {Kind.UPSTREAM_REJECTED: "any 4xx", Kind.UPSTREAM_BUSY: "429, 503"}
    expected = {kind.slug: upstream.get(kind) or str(kind.status) for kind in Kind}
    documented = {slug: statuses for statuses, slug in ROW.findall(PAGES["http"])}
    wrong = dict(set(expected.items()) ^ set(documented.items()))
    assert not wrong, f"docs/http.rst: the table of problems differs from wire/problems.py: {wrong}"


class MetricsTests(ClusterTestCase):
    """Metrics in the documents."""

    def test_every_metric_is_documented(self) -> None:
        """Each metric that is served is in the table of metrics."""
        served = self.nodes[0].operate().get("/metrics").response.body.decode()
        names = set(re.findall(r"^# TYPE (jobproxy_\w+) ", served, re.MULTILINE))
        documented = set(re.findall(r"``(jobproxy_\w+)(?:\{[\w,]+\})?``", PAGES["operations"]))
        self.assertGreater(len(names), 10)
        missing = names - documented
        self.assertFalse(missing, f"docs/operations.rst: add to the table of metrics: {missing}")

    def test_queries_of_the_runbook_use_served_metrics(self) -> None:
        """Each metric in a query of the runbook is served."""
        served = self.nodes[0].operate().get("/metrics").response.body.decode()
        kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", served, re.MULTILINE))
        histograms = {name for name, kind in kinds.items() if kind == "histogram"}
        parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
        names = (kinds.keys() - histograms) | parts
        asked = set(re.findall(r"(?:jobproxy|process)_\w+", "\n".join(QUERIES)))
        unknown = asked - names
        self.assertFalse(unknown, f"docs/runbook.rst: the proxy does not serve: {unknown}")


@needs("prometheus", "promtool")
def test_queries_of_the_runbook_parse(tmp_path: Path) -> None:
    """Prometheus can parse every query of the runbook."""
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(QUERIES)]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "runbook", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(QUERIES) > 10


@pytest.mark.skipif(not ALERTS.exists(), reason="there are no alerts in deploy/prometheus")
def test_every_alert_has_a_section_in_the_runbook() -> None:
    """Each alert has a section in the runbook with all that is needed at night."""
    rules = ALERTS.read_text(encoding="utf-8")
    alerts = re.findall(r"^ *- alert: (\w+)$", rules, re.MULTILINE)
    sections = SECTION.findall(PAGES["runbook"])
    wrong = {name for name, _ in sections} ^ set(alerts)
    assert not wrong, f"docs/runbook.rst: one section for each alert of alerts.yml, see {wrong}"
    assert len(sections) == len(set(alerts)), "docs/runbook.rst: an alert has two sections"
    for name, text in sections:
        parts = re.findall(r"^:(.*):", text, re.MULTILINE)
        assert parts == ["It means", "Clients see", "To be sure", "To do"], (
            f"docs/runbook.rst, {name}: these are not the four parts"
        )
        link = f" runbook.html#{name.lower()}\n"
        assert link in rules, f"alerts.yml, {name}: the runbook is{link}"


def test_commands_parse() -> None:
    """A shell can parse every command."""
    script = "\n".join(COMMANDS)
    done = subprocess.run(
        ["bash", "-n"], input=script, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("words", find_commands("twistd"), ids=" ".join)
def test_daemons_accept_the_options_in_commands(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemons accept the options in the commands."""
    monkeypatch.chdir(tmp_path)
    Path("callback.key").write_text("k" * 32)
    bare = {name: value for name, value in os.environ.items() if "JOB" not in name}
    with mock.patch.dict(os.environ, bare, clear=True):
        options = ServerOptions()
        try:
            options.parseOptions(words[1:])
        except SystemExit as end:
            # --version ends it.
            if end.code:
                raise
    assert options.subCommand in {"jobproxy", "jobserver"}


@pytest.mark.parametrize(
    "words", find_commands("jobproxyctl", "jobclient", "jobproxy-demo"), ids=" ".join
)
def test_scripts_accept_the_options_in_commands(words: list[str]) -> None:
    """Each console script has the subcommands and options in the commands."""
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    first_flag = min([words.index(word) for word in words if word.startswith("-")] or [len(words)])
    subcommand = [word for word in words[1:first_flag] if word.islower()]
    text = read_help(words[0], *subcommand)
    unknown = [flag for flag in flags if not re.search(rf"{flag}(?![\w-])", text)]
    assert not unknown, f"docs/: {words[0]} has no {unknown}"


@pytest.mark.parametrize(("number", "kept"), [(0, True), (1, False)])
def test_commands_replace_the_key(number: int, kept: bool, tmp_path: Path) -> None:
    """Of the two commands that make a new key, the first keeps the old one, the other does not."""
    command = [each for each in COMMANDS if "token_urlsafe" in each][number]
    key = tmp_path / "store.db.key"
    key.write_text("o" * 32 + "\n")
    command = command.replace("sudo ", "").replace("/var/lib/jobproxy", str(tmp_path))
    subprocess.run(["bash", "-ec", command], timeout=DEADLINE, check=True)
    new, *rest = read_keys(str(key))
    assert new != b"o" * 32
    assert rest == [b"o" * 32] * kept
    assert key.stat().st_mode & 0o777 == 0o600


def test_targets_and_files_in_commands_exist() -> None:
    """Each target of make and each file of ours in a command exists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for _, target, *_ in find_commands("make"):
        found = re.search(rf"^{target}:", makefile, re.MULTILINE)
        assert found, f"docs/: make {target} is not in the Makefile"
    named = {word for command in COMMANDS for word in shlex.split(command)}
    files = {name for name in named if re.match(r"(benchmarks|deploy|docs|tests)/", name)}
    missing = [name for name in sorted(files) if not (ROOT / name).exists()]
    assert not missing, f"docs/: a command names files that do not exist: {missing}"


def test_pages_and_pictures_of_the_readme_exist() -> None:
    """Each page and picture that the README names exists."""
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    named = set(re.findall(r"docs/[\w.-]+\.\w+", readme))
    missing = [name for name in sorted(named) if not (ROOT / name).exists()]
    assert not missing, f"README.rst names files that do not exist: {missing}"
    assert {"docs/architecture.svg", "docs/figures.svg", "docs/tutorial.rst"} <= named


def test_architecture_names_every_module() -> None:
    """Every module is named in the architecture page, and every module named there exists."""
    modules = [path for path in (ROOT / "jobproxy").rglob("*.py") if path.name != "__init__.py"]
    rooms = PAGES["architecture"].partition("   * - room\n")[2].partition("The way of a job")[0]
    named = set(re.findall(r"``([\w]+\.py)``", rooms))
    wrong = {path.name for path in modules} ^ named
    assert not wrong, f"docs/architecture.rst: the table of rooms differs from the modules: {wrong}"


def test_architecture_names_only_what_exists() -> None:
    """Every class and method that the architecture page names exists."""
    defined = set()
    for path in (ROOT / "jobproxy").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, FUNCTIONS):
                defined.add(node.name)
            if isinstance(node, ast.ClassDef):
                members = [n.name for n in ast.walk(node) if isinstance(n, FUNCTIONS)]
                defined |= {node.name, *(f"{node.name}.{name}" for name in members)}
    named = set(re.findall(r"``([A-Z]\w*[a-z]\w*(?:\.\w+)?)``", PAGES["architecture"]))
    missing = named - defined
    assert not missing, f"docs/architecture.rst: there is no {missing}"
