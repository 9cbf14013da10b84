"""Charts are well-formed SVG whatever the data, and names cannot leave their element."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from tasks.shared.reporting.charts import Line, Whisker, curve, number, ticks, whiskers


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (0.0, 0.003), (-5.0, 17.0), (99.0, 101.0), (3.0, 3.0), (0.0, 0.0), (1e-9, 2e6)],
)
def test_ticks_are_round_and_enclose_the_data(low: float, high: float) -> None:
    """Few, ascending, from at or below the lowest to at or above the highest."""
    found = ticks(low, high)
    assert found == sorted(set(found)) and 1 <= len(found) <= 8
    assert found[0] <= low + 1e-6 and found[-1] >= high - 1e-6


@pytest.mark.parametrize(("low", "high"), [(1, 2), (1.5, 2.5), (0, 7), (1, 24), (1, 1800)])
def test_whole_ticks_are_whole(low: float, high: float) -> None:
    """No fractional steps such as 1.2."""
    found = ticks(low, high, whole=True)
    assert all(value == int(value) for value in found) and 2 <= len(found) <= 8


def test_a_curve_has_a_gap_where_the_value_is_missing() -> None:
    """Three points and a NaN give two pieces."""
    figure = curve("Pass ratio", [Line("rl", [1, 2, 3, 4], [0.1, math.nan, 0.3, 0.4])], "step", percent=True)
    root = ElementTree.fromstring(str(figure))
    path = next(element for element in root.iter("path") if element.get("d"))
    assert (path.get("d") or "").count("M") == 2 and (path.get("d") or "").count("L") == 1


def test_no_points_draw_no_frame() -> None:
    """No finite point: no empty frame."""
    assert curve("x", [Line("a", [1], [math.nan])], "step") == ""


def test_names_are_escaped() -> None:
    """A set may have any name."""
    evil = "<script>alert(1)</script>\"'"
    for figure in (
        curve(
            evil, [Line(evil, [1, 2], [0.5, 0.7], [0.4, 0.6], [0.6, 0.8])], evil, {evil: 0.9}, vertical=[1]
        ),
        whiskers(evil, [Whisker(evil, 0.5, 0.4, 0.6)]),
    ):
        assert "<script" not in figure
        ElementTree.fromstring(str(figure))


def test_numbers_are_short() -> None:
    """Short forms."""
    assert [number(12_500), number(0.25), number(0.4, percent=True), number(3.0)] == [
        "12.5k",
        "0.25",
        "40 %",
        "3",
    ]
