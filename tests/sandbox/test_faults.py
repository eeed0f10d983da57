"""Faults: how they are written, and which job has which."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.sandbox.faults import KINDS, Fault, Faults, read_faults


class ReadFaultsTests(SynchronousTestCase):
    """The text of the option ``--faults``."""

    def test_faults_have_rates_and_seconds(self) -> None:
        """Each fault has a rate; those with a duration have seconds, by default their own."""
        self.assertEqual(read_faults(""), Faults({}))
        self.assertEqual(read_faults(" , ,"), Faults({}))
        self.assertEqual(
            read_faults("drop=0.01, slow=0.1:5,late=1,slow=.5:0,busy=1e-3"),
            Faults(
                {
                    "drop": Fault(0.01, 0.0),
                    "slow": Fault(0.5, 0.0),
                    "late": Fault(1.0, 35.0),
                    "busy": Fault(0.001, 1.0),
                }
            ),
        )

    @given(
        st.dictionaries(
            st.sampled_from(sorted(KINDS)),
            st.builds(Fault, st.floats(0, 1), st.floats(0, 1e300)),
        )
    )
    def test_written_faults_are_parsed(self, rates: dict[str, Fault]) -> None:
        """Faults that are written as kind=rate:seconds are parsed."""
        text = ",".join(f"{kind}={fault.rate}:{fault.seconds}" for kind, fault in rates.items())
        self.assertEqual(read_faults(text), Faults(rates))

    def test_unknown_fault_is_refused_with_the_known_ones(self) -> None:
        """An unknown fault is refused, with a list of the known ones."""
        for text in ("explode=1", "=1", "drop=1,explode", "Drop=1"):
            with self.assertRaisesRegex(
                ValueError, "must name a known fault, not '[a-zA-Z]*'; there are drop, .*, failed"
            ):
                read_faults(text)

    def test_rate_that_is_no_number_is_refused(self) -> None:
        """A rate or seconds that are not numbers are refused."""
        for text in ("drop", "drop=", "drop=x", "drop=:1", "drop=1:x", "drop=1:2:3", "drop=1=1"):
            with self.assertRaisesRegex(ValueError, "must be like drop=0.01,slow=0.1:5, not "):
                read_faults(text)

    def test_rate_out_of_range_is_refused(self) -> None:
        """A rate must be from 0 to 1, and seconds must be finite and not negative."""
        for text in (
            "drop=1.01",
            "drop=-0.1",
            "drop=nan",
            "drop=inf",
            "slow=1:-1",
            "slow=1:inf",
            "slow=1:nan",
        ):
            with self.assertRaisesRegex(
                ValueError, f"must have rates from 0 to 1 and seconds from 0, not '{text}'"
            ):
                read_faults(text)

    @given(st.text("abcdeolprtuw=:,.019- ", max_size=20))
    def test_any_text_is_parsed_or_refused(self, text: str) -> None:
        """Any text is parsed, or refused with a ValueError."""
        try:
            faults = read_faults(text)
        except ValueError:
            return
        self.assertLessEqual(faults.rates.keys(), KINDS.keys())
        self.assertTrue(all(0 <= fault.rate <= 1 for fault in faults.rates.values()))


class DrawTests(SynchronousTestCase):
    """The faults of each job."""

    def test_rate_of_0_is_never_drawn(self) -> None:
        """A fault of rate 0 is never drawn, and neither is one that was not given."""
        faults, source = read_faults("drop=0,late=0:5"), Random(1)
        self.assertTrue(all(faults.draw(source) == {} for _ in range(1_000)))
        self.assertEqual(Faults().draw(source), {})

    def test_rate_of_1_is_always_drawn(self) -> None:
        """A fault of rate 1 is always drawn, with its seconds."""
        faults, source = read_faults(",".join(f"{kind}=1" for kind in KINDS)), Random(1)
        for _ in range(1_000):
            drawn = faults.draw(source)
            self.assertEqual(drawn, faults.rates)
            self.assertEqual(drawn["late"].seconds, 35.0)

    def test_faults_are_drawn_independently_at_their_rates(self) -> None:
        """Faults are drawn at their rates, independently of each other."""
        faults, source = read_faults("drop=0.5,late=0.2"), Random(1)
        met = Counter(frozenset(faults.draw(source)) for _ in range(10_000))
        for kinds, part in (
            (frozenset(), 0.4),
            (frozenset(["drop"]), 0.4),
            (frozenset(["late"]), 0.1),
            (frozenset(["drop", "late"]), 0.1),
        ):
            self.assertLess(abs(met[kinds] / 10_000 - part), 0.015, kinds)

    def test_same_seed_draws_the_same_faults(self) -> None:
        """The same seed draws the same faults, and another seed draws others."""
        faults = read_faults("drop=0.5,late=0.5")

        def draw(seed: int) -> list[dict[str, Fault]]:
            source = Random(seed)
            return [faults.draw(source) for _ in range(100)]

        self.assertEqual(draw(1), draw(1))
        self.assertNotEqual(draw(1), draw(2))
