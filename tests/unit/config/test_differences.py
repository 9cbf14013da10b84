"""Differences of settings are listed key by key, including lists of sections."""

from tasks.shared.config.differences import differences


def test_every_difference_is_a_line() -> None:
    before = {"rl": {"rate": 0.1}, "data": [{"limit": 3, "name": "a"}], "seed": 1}
    after = {"rl": {"rate": 0.2}, "data": [{"limit": 4, "name": "a"}, {"name": "b"}], "long": "x" * 99}
    assert differences(before, after) == [
        "data.0.limit: 3 -> 4",
        "data.1.name: nothing -> b",
        f"long: nothing -> {'x' * 57}...",
        "rl.rate: 0.1 -> 0.2",
        "seed: 1 -> nothing",
    ]
    assert differences(before, before) == []
