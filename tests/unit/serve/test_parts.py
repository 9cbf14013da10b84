"""A response in parts: they add up to its text for any division of ids; stop strings, partial characters."""

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
    received = parts()
    found = []
    for start in range(0, len(ids), size):
        end = min(start + size, len(ids))
        ended = (call,) if start < call.feedback_end <= end else ()
        if start < call.feedback_end < end or not call.turn_end < end < call.feedback_end:
            found += received.take(Grown(ids[received.num_ids : end], ended))
    assert received.text == "".join(part.text for part in found) == CALL + "é 算" + SHOWN + ANSWER + "算"
    assert [received.text[start:end] for start, end in received.spans] == [SHOWN]
    assert [part for part in found if isinstance(part, Output)] == [Output(SHOWN, call)]


def test_followed_and_unfollowed_responses_are_alike() -> None:
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
    received = parts("STOP", "nothing")
    pieces = ["one ST", "UFF two S", "TO", "P three"]
    found = [part for piece in pieces for part in received.take(Grown(encode(piece)))]
    assert found == [Words("one "), Words("STUFF two ")] and received.stopped
    assert list(received.take(Grown(encode("more")))) == []


def test_a_stop_string_in_an_output_stops_nothing() -> None:
    received = parts("42")
    words, shown = encode(CALL), encode(SHOWN)
    call = CodeCall("print(6 * 7)", "ok", "42", 0.1, len(words), len(words) + len(shown))
    assert len(list(received.take(Grown((*words, *shown), (call,))))) == 2 and not received.stopped


def test_a_stop_string_between_two_outputs_of_one_report() -> None:
    """All sampled ids are counted: the outputs are a part of them."""
    received = parts("STOP")
    pieces = [encode(text) for text in (CALL, SHOWN, "STOP " + CALL, SHOWN)]
    ends = [sum(map(len, pieces[:count])) for count in range(5)]
    calls = [CodeCall("print(6 * 7)", "ok", "42", 0.1, ends[place], ends[place + 1]) for place in (1, 3)]
    list(received.take(Grown(sum(pieces, ()), tuple(calls))))
    assert received.stopped and received.text == CALL + SHOWN
    assert (received.num_ids, received.num_shown) == (ends[-1], len(pieces[1]))
