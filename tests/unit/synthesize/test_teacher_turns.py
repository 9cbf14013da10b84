"""Reading a turn of a model at an endpoint, with or without the stop string."""

import pytest

from tasks.shared.generation.endpoint.client import AttemptFailed
from tasks.shared.generation.endpoint.completion import Choice, Message
from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.selection import Vote
from tasks.synthesize.teachers.endpoint import read_words
from tasks.synthesize.teachers.judge import read_vote

RETOOL, TORL = DIALECTS["retool"], DIALECTS["torl"]
BLOCK = "Look.\n<code>\n```python\nprint(1)\n```\n"


def read(text, dialect=RETOOL, finish="stop", stop=True, most=1000):
    choice = Choice(message=Message(content=text), finish_reason=finish)
    return read_words(choice, dialect, dialect.stop if stop else None, most)


@pytest.mark.parametrize(
    "text", [BLOCK, BLOCK.strip(), BLOCK + "</code>", BLOCK + "</code>\n<interpreter>\n9\n"]
)
def test_a_block_ends_with_the_stop_string_whoever_wrote_it(text):
    assert read(text) == BLOCK + "</code>"


def test_fences_end_alike():
    assert read("Look.\n```python\nprint(1)\n```\n", TORL) == "Look.\n```python\nprint(1)\n```\n```output"


@pytest.mark.parametrize("text", ["So it is 5.", "<code>\n```python\nprint(1)\n"])
def test_what_is_no_block_stays_as_it_is(text):
    assert read(text) == text


@pytest.mark.parametrize("finish", [None, "eos", "stop_sequence", "end_turn", "STOP", "tool_calls"])
def test_any_finish_reason_may_end_a_block(finish):
    assert read(BLOCK, finish=finish) == BLOCK + "</code>"


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_a_turn_that_a_token_limit_cut_is_text(finish):
    assert read(BLOCK, finish=finish) == BLOCK


def test_a_turn_that_may_not_call_is_text():
    assert read(BLOCK + "</code> and more", stop=False) == BLOCK + "</code> and more"


@pytest.mark.parametrize(
    ("text", "finish", "kind"),
    [("", "stop", "empty"), ("x" * 1001, "stop", "too_long"), ("x", "content_filter", "withheld")],
)
def test_what_cannot_be_used_says_why(text, finish, kind):
    with pytest.raises(AttemptFailed, match=kind):
        read(text, finish=finish)


def test_a_vote_is_the_last_object_of_an_answer():
    assert read_vote('{"a": 1} then {"novelty": true, "significance": false}') == [Vote(True, False)]
    assert read_vote("no") == read_vote('{"novelty": 3}') == []
