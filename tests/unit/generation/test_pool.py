"""The pool's client against servers in this process: choice of server, repeated requests, errors."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import torch

from tasks.shared.generation.pool import members as pool_members
from tasks.shared.generation.pool.generator import PoolAsker, PoolGenerator
from tasks.shared.generation.pool.members import Member
from tasks.shared.generation.pool.server import PoolFailed, core_shares
from tasks.shared.generation.pool.weights import FileTransfer, buckets
from tasks.shared.generation.protocol import Sampling
from tests.unit.generation.pieces import finish
from tests.unit.generation.pool_server import TOKEN, FakeServer, servers, tokens_of
from tests.waiting import until


@contextmanager
def pool_of(asked: Sequence[FakeServer], slots: int = 4, token: str = TOKEN) -> Iterator[PoolGenerator]:
    generator = PoolGenerator(
        [Member(f"server-{n}", None, url=server.url) for n, server in enumerate(asked)],
        token,
        slots=slots,
        eos_ids=[1],
        paths=["model.safetensors"],
    )
    try:
        yield generator
    finally:
        generator.close()


def add(generator: PoolAsker, count: int, first: int = 0) -> None:
    for n in range(first, first + count):
        generator.add(str(n), [5, 6, n], sampling=Sampling(), seed=n, stop=None, max_new_tokens=3)


def test_requests_go_to_the_least_loaded_server() -> None:
    with servers(2) as (one, two), pool_of([one, two], slots=4) as generator:
        generator.wait()
        one.open.clear()
        add(generator, 20)
        until(lambda: len(one.asked) == 4 and len(two.asked) == 16)
        one.open.set()
        pieces = finish(generator)
        assert {key: list(piece.ids) for key, piece in pieces.items()} == {
            str(n): tokens_of(n, 3) for n in range(20)
        }
        assert one.most_at_once == 4
        assert two.most_at_once <= 4


def test_two_loops_share_the_servers() -> None:
    with servers(2) as (one, two), pool_of([one, two]) as generator:
        generator.wait()
        beside = generator.beside()
        add(generator, 6)
        add(beside, 6, first=3)  # some ids are those of the first loop
        assert set(finish(beside)) == {str(n) for n in range(3, 9)}
        assert {key: list(piece.ids) for key, piece in finish(generator).items()} == {
            str(n): tokens_of(n, 3) for n in range(6)
        }


def test_later_turns_go_to_the_server_of_the_first() -> None:
    with servers(2) as (one, two), pool_of([one, two], slots=2) as generator:
        generator.wait()
        add(generator, 2)
        finish(generator)
        first = {body["token_ids"][2]: server for server in (one, two) for body in server.asked}
        one.open.clear()
        two.open.clear()
        add(generator, 4, first=10)  # both are full
        until(lambda: len(one.asked) + len(two.asked) == 6)
        for n in (0, 1):
            generator.extend(str(n), [50 + n], stop=None, max_new_tokens=3)
        until(lambda: len(one.asked) + len(two.asked) == 8)
        for n in (0, 1):
            body = first[n].asked[-1]
            assert body["token_ids"] == [5, 6, n, *tokens_of(n, 3), 50 + n]
            assert body["sampling_params"]["seed"] == (n + 0x9E3779B9) % 2**31
        one.open.set()
        two.open.set()
        finish(generator)


def test_aborted_requests_free_their_slots() -> None:
    with servers(1) as (one,), pool_of([one], slots=2) as generator:
        generator.wait()
        one.open.clear()
        add(generator, 4)
        until(lambda: len(one.asked) == 2)
        generator.abort("0")
        generator.abort("3")
        until(lambda: len(one.asked) == 3)  # the third request runs on the first one's server
        one.open.set()
        assert finish(generator).keys() == {"1", "2"}
        assert [body["token_ids"][2] for body in one.asked] == [0, 1, 2]


def test_two_loops_with_names_of_any_form_get_their_own() -> None:
    with servers(1) as (one,), pool_of([one]) as generator:
        loops = [generator, generator.beside()]
        for asker, name, seed in zip(loops, ("evaluation:7/0", "7/0"), (3, 4), strict=True):
            asker.add(name, [5], sampling=Sampling(), seed=seed, stop=None, max_new_tokens=3)
        for asker, seed in zip(loops, (3, 4), strict=True):
            assert [list(piece.ids) for piece in finish(asker).values()] == [tokens_of(seed, 3)]


def test_what_a_server_was_asked_when_it_died_is_asked_of_another() -> None:
    with servers(2) as (one, two), pool_of([one, two]) as generator:
        generator.wait()
        one.open.clear()
        add(generator, 8)
        until(lambda: len(one.asked) == 4)
        one.die()
        pieces = finish(generator)
        assert {key: list(piece.ids) for key, piece in pieces.items()} == {
            str(n): tokens_of(n, 3) for n in range(8)
        }
        assert len(two.asked) == 8
        port = urlsplit(one.url).port
        one.open.set()
        one.start(port or 0)  # it is back with unknown weights
        until(lambda: generator._pool.members[0].ready)
        assert one.calls[-4:] == ["begin_weights", "take_weights", "finish_weights", "/resume"]
        add(generator, 8, first=20)
        finish(generator)
        assert len(one.asked) > 4


def test_a_request_that_fails_everywhere_ends_the_step() -> None:
    with servers(1) as (one,), pool_of([one]) as generator:
        generator.wait()
        one.status = 500
        add(generator, 1)
        with pytest.raises(PoolFailed, match=r"request 0 failed 6 times, .*it does not like this"):
            finish(generator)
        assert len(one.asked) == 6


def test_a_request_that_is_refused_is_not_asked_again() -> None:
    with servers(1) as (one,), pool_of([one]) as generator:
        generator.wait()
        one.status = 400
        add(generator, 1)
        with pytest.raises(RuntimeError, match="400: it does not like this"):
            finish(generator)
        assert len(one.asked) == 1


def test_servers_that_stay_down_end_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_members, "ABSENT_S", 1.0)
    with servers(1) as (one,), pool_of([one]) as generator:
        generator.wait()
        one.die()
        add(generator, 1)
        with pytest.raises(PoolFailed, match="no server of the pool answered"):
            finish(generator)


def test_a_wrong_token_is_an_error_at_once() -> None:
    with (
        servers(1) as (one,),
        pool_of([one], token="another") as generator,
        pytest.raises(ValueError, match="rejects the token"),
    ):
        generator.score([[5, 6]])


def test_one_server_scores_and_all_compare_weights() -> None:
    with servers(2) as (one, two), pool_of([one, two]) as generator:
        generator.wait()
        assert generator.score([[5, 6, 7]]) == [[0.0, -0.25, -0.25]]
        generator.score([[5, 6, 7]])
        assert (len(one.asked), len(two.asked)) == (1, 1)
        assert generator.disagreeing() == []
        one.weights = {"worker 0: a": "2"}
        assert generator.disagreeing() == ["server-0, worker 0: a"]
        generator.score([[5]])
        assert generator.disagreeing() == ["server-1, worker 0: a"]


def test_a_logprob_that_is_no_number_stays_one() -> None:
    with servers(1) as (one,), pool_of([one]) as generator:
        seed = next(n for n in range(200) if 13 in tokens_of(n, 3))
        generator.add("a", [5], sampling=Sampling(), seed=seed, stop=None, max_new_tokens=3)
        assert all(math.isnan(value) for value in finish(generator)["a"].logprobs)
        assert one.asked


def test_every_server_takes_every_bucket_and_names_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.shared.generation.pool.weights.BUCKET_BYTES", 64)
    weights = [(f"layer{n}", torch.full((4, 2), float(n))) for n in range(5)]
    with servers(2) as both, pool_of(both) as generator:
        generator.load_weights(weights)
        add(generator, 4)
        assert {piece.versions for piece in finish(generator).values()} == {((1, 3),)}
        for server in both:
            took = ["/pause", "begin_weights", *["take_weights"] * 3, "finish_weights", "/resume"]
            assert server.calls[-7:] == took


def test_buckets_hold_copies_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.shared.generation.pool.weights.BUCKET_BYTES", 64)
    tensors = [torch.full((size,), float(size)) for size in (4, 8, 40, 2, 2)]
    groups = list(buckets((str(n), tensor) for n, tensor in enumerate(tensors)))
    assert [list(group) for group in groups] == [["0", "1"], ["2"], ["3", "4"]]
    tensors[0].zero_()
    assert groups[0]["0"].tolist() == [4.0] * 4


@pytest.mark.parametrize("shared", [False, True], ids=["memory", "directory"])
def test_files_stay_until_the_next_push_and_are_gone_at_the_end(tmp_path, shared: bool) -> None:
    from safetensors.torch import load_file

    files = FileTransfer(None, None, tmp_path / "weights" if shared else None)  # its pool gets no requests
    first = files.write([("a", torch.ones(3))])
    second = files.write([("a", torch.zeros(3)), ("b", torch.ones(1))])
    assert load_file(first[0])["a"].tolist() == [1.0] * 3, "for those that have not taken the new ones"
    files.drop_older(second)
    assert load_file(second[0])["b"].tolist() == [1.0]
    with pytest.raises(OSError):
        load_file(first[0])
    files.close()
    with pytest.raises(OSError):
        load_file(second[0])


def test_cores_are_shared_evenly_beside_the_trainers() -> None:
    assert core_shares([0, 1, 2, 3], num_taken=0, parts=2) == [["0", "1"], ["2", "3"]]
    assert core_shares([0, 1, 2, 3], num_taken=1, parts=2) == [["1"], ["2"]]
    assert core_shares([4, 5], num_taken=2, parts=2) == [["4"], ["5"]]
    assert core_shares([4], num_taken=1, parts=2) == [["4"], ["4"]]
