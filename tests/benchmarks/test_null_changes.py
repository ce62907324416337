"""The simulation of null changes: its noise, its loops, and the referee's decisions in a real comparison."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import null_changes
from benchmarks.null_changes import LOOPS, Lab, Noise, Outcome, Recorded, render, simulate


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.close()


def _recorded() -> Recorded:
    generator = np.random.default_rng(0)
    base = generator.normal(92, 1, 40)
    return Recorded(base.tolist(), (base + generator.normal(0.3, 0.5, 40)).tolist())


def test_noise_has_the_recorded_spread_and_the_true_gain() -> None:
    recorded = _recorded()
    pairs = Noise(recorded, 2.0, np.random.default_rng(1)).pairs(4000)
    differences = [changed - base for base, changed in pairs]
    assert statistics.fmean(differences) == pytest.approx(2.0, abs=4 * recorded.sd / 4000**0.5)
    assert statistics.stdev(differences) == pytest.approx(recorded.sd, rel=0.1)


def test_the_referee_decides_in_the_comparison_of_the_backend(lab: Lab) -> None:
    better = [(90.0 + seed, 91.0 + seed + seed / 10) for seed in range(8)]
    (ruling,) = lab.rulings(better)
    assert ruling.decision == "keep"
    assert "the sign-flip p is 0.0078 (8 pairs): change is better than baseline" in ruling.sentence
    assert not lab.keeps(better[:5])  # too few seeds for any verdict
    assert not lab.keeps([(changed, base) for base, changed in better])
    assert not lab.keeps([(90.0, 90.0 + (-1) ** seed) for seed in range(8)])


def test_the_table_counts_what_each_loop_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(null_changes, "GAINS", (0.0, 2.0))
    names = ("one seed, baseline trained again", "referee, 8 seeds")
    loops = {name: LOOPS[name] for name in names}
    outcomes = simulate(_recorded(), 12, loops)
    one_seed, refereed = (outcomes[name] for name in names)
    assert (one_seed[0].runs, refereed[0].runs) == (24, 192)
    assert refereed[0].kept < one_seed[0].kept
    assert refereed[1].kept >= 10  # a gain of two standard deviations is kept
    text = render(_recorded(), {"a loop": [Outcome(3, 24, 0.5), Outcome(9, 24, 6.0)]}, 12)
    assert "| a loop | 2.0 | 3 of 12 (25.0 %) | +0.50 | 9 of 12 |" in text


def test_an_interrupted_simulation_is_resumed(tmp_path: Path) -> None:
    stored = tmp_path / "outcomes.json"
    asked: list[float] = []

    def loop(noise: Noise, lab: Lab, changes: int) -> Outcome:
        asked.append(noise.pairs(1)[0][0])
        if len(asked) == 2:
            raise RuntimeError("interrupted")
        return Outcome(len(asked), changes, 0.0)

    with pytest.raises(RuntimeError, match="interrupted"):
        simulate(_recorded(), 12, {"a loop": loop}, stored)
    outcomes = simulate(_recorded(), 12, {"a loop": loop}, stored)
    assert [outcome.kept for outcome in outcomes["a loop"]] == [1, 3, 4]
    assert asked[2] == asked[1]  # the same changes as in the simulation that was interrupted
    assert simulate(_recorded(), 12, {"a loop": loop}, stored) == outcomes
    assert len(asked) == 4
    assert simulate(_recorded(), 6, {"a loop": loop}, stored) != outcomes


def test_a_table_can_be_written_from_the_loops_that_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tmp_path / "outcomes.json"
    monkeypatch.setattr(null_changes, "LOOPS", {"whole": None, "part": None})
    done = {f"whole | {gain} sd": Outcome(gain, 24, 0.0) for gain in (0, 1, 2)} | {"part | 0 sd": Outcome(9, 24, 0.0)}
    null_changes._write_outcomes(stored, 12, done)
    outcomes = null_changes.ended(stored, 12)
    assert {name: [one.kept for one in found] for name, found in outcomes.items()} == {"whole": [0, 1, 2]}
    assert null_changes.ended(stored, 13) == {}


def test_the_referee_keeps_at_most_five_per_cent_of_the_committed_null_changes() -> None:
    outcomes = null_changes.ended(null_changes.OUTCOMES, null_changes.CHANGES)
    null = {name: found[0].kept for name, found in outcomes.items()}
    assert null["referee, 8 seeds"] <= 0.05 * null_changes.CHANGES < null["one seed, baseline trained again"]
    table = null_changes.TABLE.read_text(encoding="utf-8")
    for name, kept in null.items():
        assert re.search(rf"^\| {re.escape(name)} \| [\d.]+ \| {kept} of 200 ", table, re.MULTILINE)
