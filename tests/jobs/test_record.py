"""The job record: its state machine, and the values that are computed from it."""

import ast
import math
from collections.abc import Iterator
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import jobproxy
from jobproxy.jobs.record import JobRecord, Origin, Waiter
from jobproxy.jobs.states import ENDED, TRANSITIONS, Event, IllegalTransition, State
from jobproxy.wire.problems import Kind, Problem
from jobproxy.wire.reports import Report

PACKAGE = Path(jobproxy.__file__).parent
RESULT = Report(b"{}", None, "completed")

#: The state machine, written from the words in the module's docstring and not from its table:
#: the state after each event, by name. A missing event is a bug in the proxy.
EXPECTED = """
    queued          send       starting
    queued          hand over  running
    queued          complete   completed
    queued          fail       failed
    queued          forget     forgotten

    starting        ack        running
    starting        doubt      unconfirmed
    starting        retract    queued
    starting        complete   completed
    starting        fail       failed
    starting        forget     forgotten

    starting-again  ack        running
    starting-again  doubt      unconfirmed
    starting-again  retract    unconfirmed
    starting-again  complete   completed
    starting-again  fail       failed
    starting-again  forget     forgotten

    restarting      ack        running
    restarting      doubt      running
    restarting      retract    running
    restarting      complete   completed
    restarting      fail       failed
    restarting      forget     forgotten

    unconfirmed     send       starting-again
    unconfirmed     doubt      unconfirmed
    unconfirmed     complete   completed
    unconfirmed     fail       failed
    unconfirmed     forget     forgotten

    running         send       restarting
    running         ack        running
    running         doubt      running
    running         complete   completed
    running         fail       failed
    running         forget     forgotten

    failed          complete   completed
    failed          forget     forgotten

    completed       forget     forgotten
"""

#: Events that lead from a new record to each state.
PATHS = {
    State.QUEUED: (),
    State.STARTING: (Event.SEND,),
    State.STARTING_AGAIN: (Event.SEND, Event.DOUBT, Event.SEND),
    State.RESTARTING: (Event.SEND, Event.ACK, Event.SEND),
    State.UNCONFIRMED: (Event.SEND, Event.DOUBT),
    State.RUNNING: (Event.SEND, Event.ACK),
    State.FAILED: (Event.FAIL,),
    State.COMPLETED: (Event.COMPLETE,),
    State.FORGOTTEN: (Event.FORGET,),
}

#: The word that clients and the operator see for each state.
WORDS = {
    "queued": {State.QUEUED},
    "starting": {State.STARTING, State.STARTING_AGAIN, State.RESTARTING},
    "unconfirmed": {State.UNCONFIRMED},
    "running": {State.RUNNING},
    "ended": {State.FAILED, State.COMPLETED, State.FORGOTTEN},
}


def read_expected() -> dict[tuple[State, Event], State]:
    """Return the transitions of :data:`EXPECTED`."""
    states = {state.name.lower().replace("_", "-"): state for state in State}
    events = {event.value: event for event in Event}
    found = {}
    for line in filter(None, map(str.strip, EXPECTED.split("\n"))):
        before, event, after = line[:16].strip(), line[16:27].strip(), line[27:].strip()
        found[states[before], events[event]] = states[after]
    return found


def make_record(*events: Event) -> JobRecord:
    """Return a record after these events."""
    record = JobRecord("a", 0.0)
    for event in events:
        record.on(event)
    return record


class TransitionTests(SynchronousTestCase):
    """Each event in each state."""

    def test_transitions_are_those_of_the_theory(self) -> None:
        """The table of the module has all transitions of the theory, and no others."""
        found = {
            (before, event): after
            for before, events in TRANSITIONS.items()
            for event, after in events.items()
        }
        self.assertEqual(found, read_expected())
        self.assertEqual(set(TRANSITIONS), set(State))

    def test_each_event_leads_to_the_expected_state(self) -> None:
        """A record comes to the state of the theory on each event that its state accepts."""
        for (before, event), after in read_expected().items():
            record = make_record(*PATHS[before])
            self.assertIs(record.state, before)
            record.on(event)
            self.assertIs(record.state, after, (before, event))

    def test_illegal_event_raises_and_leaves_the_state(self) -> None:
        """An event that a state does not accept raises IllegalTransition; the state stays."""
        expected = read_expected()
        illegal = [(s, e) for s in State for e in Event if (s, e) not in expected]
        self.assertEqual(len(illegal), len(State) * len(Event) - len(expected))
        for state, event in illegal:
            record = make_record(*PATHS[state])
            with self.assertRaises(IllegalTransition, msg=(state, event)) as caught:
                record.on(event)
            self.assertEqual(str(caught.exception), f"{event.value} while {state.name}")
            self.assertIs(record.state, state)

    def test_new_record_is_queued(self) -> None:
        """A record begins as queued."""
        self.assertIs(make_record().state, State.QUEUED)

    def test_started_job_never_becomes_queued_again(self) -> None:
        """A job that was unconfirmed or running never becomes queued again."""
        reached = {State.UNCONFIRMED, State.RUNNING}
        for _ in State:
            reached |= {
                after for (before, _), after in read_expected().items() if before in reached
            }
        self.assertEqual(reached & {State.QUEUED, State.STARTING}, set())

    def test_result_is_accepted_in_each_state_without_one(self) -> None:
        """A result can come in each state but those of a job that has one or is forgotten."""
        accepting = {state for state, event in read_expected() if event is Event.COMPLETE}
        self.assertEqual(accepting, set(State) - {State.COMPLETED, State.FORGOTTEN})

    def test_ended_states_are_those_of_the_word(self) -> None:
        """A record is ended in the states that clients see as ended, and in no other."""
        self.assertEqual(ENDED, WORDS["ended"])
        for state, path in PATHS.items():
            self.assertEqual(make_record(*path).is_ended, state in WORDS["ended"], state)

    def test_each_state_has_the_word_of_the_documentation(self) -> None:
        """Clients see five words for nine states."""
        found: dict[str, set[State]] = {}
        for state in State:
            found.setdefault(state.word, set()).add(state)
        self.assertEqual(found, WORDS)


def find_assignments(tree: ast.AST, function: str = "") -> Iterator[tuple[str, str]]:
    """Yield each assignment to an attribute ``state``, and its function or class."""
    for node in ast.iter_child_nodes(tree):
        inside = function
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{function}.{node.name}".lstrip(".")
        yield from find_assignments(node, inside)
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "state"
            and not isinstance(node.ctx, ast.Load)
        ):
            yield inside, ast.unparse(node)
        if isinstance(node, ast.Call) and "setattr" in ast.unparse(node.func):
            yield inside, ast.unparse(node)


class SourceTests(SynchronousTestCase):
    """What the source of the proxy may do to a record."""

    def test_only_the_record_assigns_its_state(self) -> None:
        """Nothing but JobRecord.on assigns the state of a record."""
        folders = [PACKAGE / name for name in ("jobs", "upstream", "cluster", "api", "gateway.py")]
        files = [
            file
            for path in folders
            for file in ([path] if path.suffix else sorted(path.glob("*.py")))
        ]
        self.assertGreater(len(files), 20)
        found = {
            (str(file.relative_to(PACKAGE)), *assignment)
            for file in files
            for assignment in find_assignments(ast.parse(file.read_text(encoding="utf-8")))
        }
        self.assertEqual(found, {("jobs/record.py", "JobRecord.on", "self.state")})

    def test_other_assignments_would_be_found(self) -> None:
        """The search finds each way to assign a state."""
        for statement in (
            "record.state = x",
            "self.record.state = x",
            "a, record.state = x",
            "record.state: State = x",
            "del record.state",
            "setattr(record, 'state', x)",
            "object.__setattr__(record, 'state', x)",
            "for record.state in x: pass",
        ):
            tree = ast.parse(f"def change():\n    {statement}")
            self.assertEqual([name for name, _ in find_assignments(tree)], ["change"], statement)
        self.assertEqual(list(find_assignments(ast.parse("x = record.state"))), [])


class ValueTests(SynchronousTestCase):
    """What is computed from a record."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.clock.advance(100)

    def add_waiter(self, record: JobRecord, seconds: float, *, is_poll: bool = False) -> None:
        """Add a client to a record; its deadline does nothing."""
        waiter = Waiter(
            record,
            self.clock,
            seconds,
            lambda _: None,
            lambda _: None,
            ack_is_enough=False,
            takes_state=False,
            is_poll=is_poll,
        )
        record.waiters[waiter] = None
        record.reasons += not is_poll
        self.addCleanup(waiter.deadline.cancel)

    def test_started_is_no_before_the_first_start_request(self) -> None:
        """A job without a start request was not started."""
        self.assertEqual(make_record().started, "no")

    def test_started_is_unknown_with_a_start_request_without_an_ack(self) -> None:
        """It is not known whether a job was started while a start request may have been read."""
        record = make_record(Event.SEND)
        record.starts = 1
        self.assertEqual(record.started, "unknown")

    def test_started_is_yes_with_an_ack_or_a_result(self) -> None:
        """A job with an ack or a result was started, whatever else is known of it."""
        acknowledged, completed = make_record(), make_record()
        acknowledged.acked = 0.0
        completed.result = RESULT
        self.assertEqual((acknowledged.started, completed.started), ("yes", "yes"))
        acknowledged.problem = Problem(Kind.INTERNAL, "a bug")
        self.assertEqual(acknowledged.started, "yes")

    def test_job_without_clients_is_not_wanted(self) -> None:
        """Without clients there is no reason to start a job, and none at any time."""
        record = make_record()
        self.assertFalse(record.is_wanted)
        self.assertEqual(record.wanted_until, 0.0)

    def test_poll_is_no_reason_to_start_a_job(self) -> None:
        """A client that only polls is no reason to start a job."""
        record = make_record()
        self.add_waiter(record, 10, is_poll=True)
        self.assertFalse(record.is_wanted)
        self.assertEqual(record.wanted_until, 0.0)

    def test_job_is_wanted_until_its_last_deadline(self) -> None:
        """A job is wanted until the last deadline of a client that does not only poll."""
        record = make_record()
        for seconds, is_poll in ((5, False), (20, False), (10, False), (30, True)):
            self.add_waiter(record, seconds, is_poll=is_poll)
        self.assertTrue(record.is_wanted)
        self.assertEqual(record.wanted_until, 120)
        for waiter in record.waiters:
            waiter.deadline.bring_forward(107)
        self.assertEqual(record.wanted_until, 107)

    def test_unattended_job_is_wanted_for_good(self) -> None:
        """A job that runs unattended is wanted for good, with clients or without."""
        record = make_record()
        record.runs_unattended = True
        for _ in range(2):
            self.assertTrue(record.is_wanted)
            self.assertEqual(record.wanted_until, math.inf)
            self.add_waiter(record, 10)

    def test_log_fields_name_the_job_and_what_is_known_of_its_request(self) -> None:
        """The log fields are the job id and those fields of the request that are there."""
        self.assertEqual(make_record().log_fields, {"job": "a"})
        parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        record = JobRecord("a", 0.0, origin=Origin(b"id-1", parent, "example"))
        expected = {
            "job": "a",
            "request_id": "id-1",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "account": "example",
        }
        self.assertEqual(record.log_fields, expected)
        record = JobRecord("a", 0.0, origin=Origin(b"id-1"))
        self.assertEqual(record.log_fields, {"job": "a", "request_id": "id-1"})
