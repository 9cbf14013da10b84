"""Programs that take turns: real processes, one lap per turn, each round in another order."""

import sys
from pathlib import Path

import pytest

from benchmarks.trl.laps import Racer, median, race, trl_version

PROGRAM = """
import sys, time
from benchmarks.trl.laps import Track
track = Track()
while True:
    print("noise of a library")
    track.lap(began=time.time(), tokens=float(sys.argv[1]))
"""


def racer(name: str, tokens: int) -> Racer:
    return Racer(name, [sys.executable, "-c", PROGRAM, str(tokens)])


def test_racers_take_turns_and_end_with_the_race() -> None:
    racers = [racer("one", 10), racer("two", 20)]
    race(racers, rounds=4, warm_up=1)
    assert [len(each.laps) for each in racers] == [4, 4]
    assert [median(each, "tokens") for each in racers] == [10, 20]
    assert median(racers[0], "tokens", per="tokens") == 1
    first = [one["began"] < two["began"] for one, two in zip(*(each.laps for each in racers), strict=True)]
    assert first == [True, False, True, False]


def test_a_racer_that_dies_is_named() -> None:
    dying = Racer("mortal", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match=r"mortal died \(exit code 3\)"):
        race([dying], rounds=1, warm_up=0)


def test_an_environment_without_trl_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no TRL in this environment; run make setup-trl"):
        trl_version(tmp_path / "bin" / "python")
