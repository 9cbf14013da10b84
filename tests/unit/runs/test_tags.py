"""Tags and nights in the store: history is kept, days are replaced, bad names and damage are one line."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.shared.artifacts import ArtifactRef
from tasks.shared.runs.tags import Night, Nights, Tagged, Tags

CHECKPOINT = ArtifactRef("checkpoint", "a" * 64, f"checkpoint/{'a' * 16}-{'0' * 8}")
SETS = ArtifactRef("evaluation_sets", "b" * 64, f"evaluation_sets/{'b' * 16}-{'0' * 8}")


def evaluation(letter: str) -> ArtifactRef:
    return ArtifactRef("evaluation", letter * 64, f"evaluation/{letter * 16}-{'0' * 8}")


def position(reason: str) -> Tagged:
    return Tagged(
        run="demo", checkpoint=CHECKPOINT, evaluation_sets=SETS, evaluation=evaluation("c"), reason=reason
    )


def test_a_tag_keeps_every_position(tmp_path: Path) -> None:
    tags = Tags(str(tmp_path))
    assert tags.current("promoted") is None and tags.names() == []
    tags.move("promoted", position("first"))
    tags.move("promoted", position("better"))
    current = tags.current("promoted")
    assert current is not None and current.reason == "better" and current.moved
    assert [held.reason for held in tags.history("promoted")] == ["first", "better"]
    assert Tags(str(tmp_path)).names() == ["promoted"]


def test_moves_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: Tags(str(tmp_path)).move("promoted", position(str(n))), range(24)))
    assert {held.reason for held in Tags(str(tmp_path)).history("promoted")} == {str(n) for n in range(24)}


def test_tags_on_an_object_store(bucket: str) -> None:
    Tags(bucket).move("promoted", position("first"))
    assert Tags(bucket).names() == ["promoted"]
    Nights(bucket).add("promoted", Night(day="2026-11-02", checkpoint=CHECKPOINT, evaluation=evaluation("d")))
    assert len(Nights(bucket).of("promoted")) == 1


def test_nights_are_in_order_and_one_a_day(tmp_path: Path) -> None:
    nights = Nights(str(tmp_path))
    for day, letter in (("2026-11-03", "d"), ("2026-11-01", "e"), ("2026-11-03", "f")):
        nights.add("latest.demo", Night(day=day, checkpoint=CHECKPOINT, evaluation=evaluation(letter)))
    assert [(night.day, night.evaluation.digest[0]) for night in nights.of("latest.demo")] == [
        ("2026-11-01", "e"),
        ("2026-11-03", "f"),
    ]


def test_bad_names_and_damaged_documents_are_one_line(tmp_path: Path) -> None:
    tags = Tags(str(tmp_path))
    with pytest.raises(ValueError, match="kept for runs"):
        tags.move("latest.demo", position("x"))
    with pytest.raises(ValueError, match="use letters"):
        tags.move("../escape", position("x"))
    tags.move("promoted", position("first"))
    (tmp_path / "tags" / "promoted.json").write_text('{"rows": [{}]}')
    with pytest.raises(ValueError, match=r"promoted.json: damaged .*repair or delete it"):
        tags.current("promoted")
