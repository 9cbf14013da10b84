"""Nightly decisions: noise raises no alert, a worse checkpoint does, a tag moves only through the gate."""

from xml.etree import ElementTree

import numpy as np
import pytest

from tasks.shared.artifacts import ArtifactRef, Manifest, Provenance
from tasks.shared.estimates.accuracy import Evaluation, Outcome
from tasks.shared.reporting.charts import curve, curve_image
from tasks.shared.reporting.nights import (
    EVENT,
    Night,
    promotion_gate,
    regression_event,
    significant_drops,
    trends,
    what_changed,
)

RIGHT, WRONG = Outcome(True, "1"), Outcome(False, "0")


def night(chances: np.ndarray, rng: np.random.Generator, samples: int = 32) -> Evaluation:
    """An evaluation of problems with these accuracies."""
    hits = rng.binomial(samples, np.clip(chances, 0, 1))
    return {f"p{i}": [RIGHT] * hit + [WRONG] * (samples - hit) for i, hit in enumerate(hits)}


def alerts(seed: int, nights: int, loss: float = 0.0) -> int:
    """Nights with an alert out of `nights`, compared with the night before and with a fixed reference."""
    rng = np.random.default_rng(seed)
    chances = rng.beta(0.8, 0.8, 30)
    worse = np.clip(chances - loss, 0, 1)
    reference, last, count = night(chances, rng), night(chances, rng), 0
    for _ in range(nights):
        tonight = night(worse, rng)
        pairs = [
            ("promoted", "aime", "last night", last, tonight),
            ("promoted", "aime", "reference", reference, tonight),
        ]
        count += bool(significant_drops(pairs))
        last = tonight if loss == 0 else last
    return count


def test_noise_alerts_in_at_most_five_of_a_hundred_nights() -> None:
    """Ten series of 100 nights, each with its own reference: nearly all have at most 5 alerts, 2 % overall."""
    counts = [alerts(seed, 100) for seed in range(10)]
    assert sum(count <= 5 for count in counts) >= 9, counts
    assert sum(counts) / 1000 <= 0.03, counts


def test_a_worse_checkpoint_alerts() -> None:
    """A loss of ten points at 30 problems x 32 samples is found in nearly every night."""
    assert alerts(3, 40, loss=0.10) >= 38


def test_many_comparisons_raise_no_more_false_alerts() -> None:
    """The level is divided among twenty sets."""
    rng = np.random.default_rng(8)
    chances = rng.beta(0.8, 0.8, 30)
    quiet = 0
    for _ in range(60):
        pairs = [
            ("latest", f"s{n}", "last night", night(chances, rng, 8), night(chances, rng, 8))
            for n in range(20)
        ]
        quiet += not significant_drops(pairs)
    assert quiet >= 57


def test_an_alert_names_checkpoint_set_size_and_interval() -> None:
    """Message and event carry checkpoint, set, size and interval."""
    before = {f"p{i}": [RIGHT] * 8 for i in range(20)}
    after = {f"p{i}": [WRONG if i % 2 else RIGHT] * 8 for i in range(20)}
    (drop,) = significant_drops([("promoted", "aime_2025", "reference", before, after)])
    assert drop.message.startswith("promoted on aime_2025 fell by 50.0 points against reference")
    event = regression_event(drop, "nightly-1", "report.html")
    assert (
        event["event"] == EVENT and event["resource"]["prefect.resource.id"] == "tirflow.checkpoint.promoted"
    )
    assert event["payload"]["comparison"]["worse"] == 10
    assert significant_drops([("promoted", "aime_2025", "reference", after, before)]) == []
    assert significant_drops([]) == []


@pytest.mark.parametrize(
    ("gain", "threshold", "promote", "word"),
    [
        (-0.3, 0.0, False, "refused"),
        (-0.3, -0.5, True, "passes:"),
        (0.3, 0.0, True, "passes:"),
        (0.0, 0.0, True, "not decided"),
    ],
)
def test_the_gate(gain: float, threshold: float, promote: bool, word: str) -> None:
    """It refuses only if the whole interval lies below the threshold, and always gives the reason."""
    rng = np.random.default_rng(4)
    chances = np.full(40, 0.5)
    gate = promotion_gate(night(chances, rng), night(chances + gain, rng), threshold)
    assert (gate.promote, word in gate.reason) == (promote, True), gate


def manifest(
    seed: int = 0, temperature: float = 1.0, checkpoint: str = "a" * 64, code: str = "c1"
) -> Manifest:
    """An evaluation's manifest."""
    provenance = Provenance(
        stage="evaluate",
        config={"evaluate": {"temperature": temperature, "top_p": 0.7}},
        seed=seed,
        inputs={"checkpoint": ArtifactRef("checkpoint", checkpoint, "checkpoint/0123456789abcdef-01234567")},
        code=code,
    )
    return Manifest(
        kind="evaluation", digest="d" * 64, files=(), provenance=provenance, metrics={}, created=""
    )


def test_what_changed_names_every_difference_and_nothing_else() -> None:
    """Configuration keys, seed, inputs and code; equal manifests give no line."""
    assert what_changed(manifest(), manifest()) == []
    assert what_changed(manifest(), manifest(temperature=0.6, code="c2")) == [
        "code: c1 -> c2",
        "config.evaluate.temperature: 1.0 -> 0.6",
    ]
    (line,) = what_changed(manifest(), manifest(checkpoint="b" * 64))
    assert line.startswith("inputs.checkpoint.digest: aaa")


def test_library_versions_are_part_of_what_changed() -> None:
    """A library that was upgraded is named."""
    changed = what_changed(
        manifest(), manifest(), {"torch": "2.12", "python": "3.11"}, {"torch": "2.13", "python": "3.11"}
    )
    assert changed == ["surroundings.torch: 2.12 -> 2.13"]


def test_the_trend_has_a_line_for_each_tag_and_a_chart_for_each_set() -> None:
    """Nights in the order of their days, with bands; as an image of its own it names its lines."""
    nights = [
        Night(f"2026-11-{day:02d}", tag, "aime", 0.4 + day / 100, 0.3, 0.6)
        for day in (3, 1, 2)
        for tag in ("promoted", "latest.<b>")
    ]
    (trend,) = trends(nights)
    assert trend.set == "aime" and trend.x_label == "night: 1 is 2026-11-01, 3 is 2026-11-03"
    assert [line.ys for line in trend.lines] == [pytest.approx([0.41, 0.42, 0.43])] * 2
    chart = curve(trend.title, trend.lines, trend.x_label, percent=True)
    assert chart.count('class="curve') == 2 and chart.count('class="band') == 2
    image = ElementTree.fromstring(curve_image(trend.title, trend.lines, trend.x_label, percent=True))
    texts = [element.text for element in image.iter("{http://www.w3.org/2000/svg}text")]
    assert {"promoted", "latest.<b>", trend.title} <= set(texts)
    assert trends([]) == []
