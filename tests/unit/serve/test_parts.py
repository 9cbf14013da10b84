"""A response in parts: what is said of it is its text, however its ids come in; stop strings, unfinished characters."""

import pytest

from tasks.serve.parts import Grown, Output, Parts, Words
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.finished import finished
from tasks.shared.traces.trajectory import CodeCall, FinishReason, TrajectoryBuilder
from tests.unit.serve.scripted_world import ANSWER, CALL, SHOWN, TOKENIZER


def encode(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False))


def parts(*stops: str) -> Parts:
    return Parts(TOKENIZER.decode, stops)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_text_of_all_parts_is_the_response(size: int) -> None:
    words, shown, last = encode(CALL + "é 算"), encode(SHOWN), encode(ANSWER + "算")
    ids = (*words, *shown, *last)
    call = CodeCall("print(6 * 7)", "ok", "42", 0.1, len(words), len(words) + len(shown))
    said = parts()
    found = []
    for start in range(0, len(ids), size):
        end = min(start + size, len(ids))
        ended = (call,) if start < call.feedback_end <= end else ()
        if start < call.feedback_end < end or not call.turn_end < end < call.feedback_end:
            found += said.take(Grown(ids[said.num_ids : end], ended))
    assert said.text == "".join(part.text for part in found) == CALL + "é 算" + SHOWN + ANSWER + "算"
    assert [said.text[start:end] for start, end in said.spans] == [SHOWN]
    assert [part for part in found if isinstance(part, Output)] == [Output(SHOWN, call)]


def test_a_response_that_nobody_followed_is_told_as_one_that_was() -> None:
    words, shown, last = encode(CALL), encode(SHOWN), encode(ANSWER)
    ids = (*words, *shown, *last)
    call = CodeCall("print(6 * 7)", "ok", "42", 0.1, len(words), len(words) + len(shown))
    builder = TrajectoryBuilder("problem", 0, (1,))
    builder.append_sampled(words, [0.0] * len(words))
    builder.append_feedback(shown, call)
    builder.append_sampled(last, [0.0] * len(last))
    trajectory = finished(builder, FinishReason.LENGTH, TOKENIZER.decode, DIALECTS["retool"])
    followed, whole = parts(), parts()
    list(followed.take(Grown(ids[:5])))
    list(followed.take(Grown(ids[5:], (call,), trajectory=trajectory)))
    found = list(whole.take(Grown(ids, (call,), trajectory=trajectory)))
    assert found == [Words(CALL), Output(SHOWN, call), Words(ANSWER)]
    for name in ("text", "spans", "calls", "num_ids", "num_shown"):
        assert getattr(whole, name) == getattr(followed, name), name


def test_words_end_before_a_stop_string_that_comes_in_pieces() -> None:
    said = parts("STOP", "nothing")
    pieces = ["one ST", "UFF two S", "TO", "P three"]
    found = [part for piece in pieces for part in said.take(Grown(encode(piece)))]
    assert found == [Words("one "), Words("STUFF two ")] and said.stopped
    assert list(said.take(Grown(encode("more")))) == []


def test_a_stop_string_in_an_output_stops_nothing() -> None:
    said = parts("42")
    words, shown = encode(CALL), encode(SHOWN)
    call = CodeCall("print(6 * 7)", "ok", "42", 0.1, len(words), len(words) + len(shown))
    assert len(list(said.take(Grown((*words, *shown), (call,))))) == 2 and not said.stopped


def test_a_stop_string_between_two_outputs_of_one_report() -> None:
    """All sampled ids are counted: the outputs are a part of them."""
    said = parts("STOP")
    pieces = [encode(text) for text in (CALL, SHOWN, "STOP " + CALL, SHOWN)]
    ends = [sum(map(len, pieces[:count])) for count in range(5)]
    calls = [CodeCall("print(6 * 7)", "ok", "42", 0.1, ends[place], ends[place + 1]) for place in (1, 3)]
    list(said.take(Grown(sum(pieces, ()), tuple(calls))))
    assert said.stopped and said.text == CALL + SHOWN
    assert (said.num_ids, said.num_shown) == (ends[-1], len(pieces[1]))
