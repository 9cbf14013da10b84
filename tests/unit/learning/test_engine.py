"""The DeepSpeed engine against plain PyTorch: equal steps for any division, resumable to the bit, quiet."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from tasks.shared.config import OptimizerConfig
from tasks.shared.contract.stage import TrainingStopped
from tasks.shared.learning.distributed import LONGEST_WAIT
from tasks.shared.learning.engine import PackedModel, TrainingEngine, learning_rate_at
from tasks.shared.learning.logprobs import token_logprobs
from tasks.shared.learning.packing import pack
from tasks.shared.learning.saved import ALL_SUMS, add_sums, sums_of
from tests.unit.generation.tiny import tiny_model
from tests.unit.learning.sequences import VOCABULARY, engine_step, num_loss_tokens, sequences_of

Zero = Literal[0, 1, 2, 3]
CONFIG = OptimizerConfig(
    learning_rate=1e-2, warmup_steps=1, schedule="cosine", weight_decay=0.1, max_grad_norm=0.5
)


def weights_of(engine: TrainingEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.weights()}


def make_engine(
    zero_stage: Zero = 0, dtype: torch.dtype = torch.float32, total_steps: int = 6, **changed: object
) -> TrainingEngine:
    config = CONFIG.model_copy(update={"zero_stage": zero_stage, **changed})
    return TrainingEngine(tiny_model(VOCABULARY).to(dtype), config, total_steps=total_steps)


def torch_reference(num_steps: int) -> tuple[list[tuple[float, float]], dict[str, torch.Tensor]]:
    """Plain PyTorch: every sequence of a step in one row, one backward pass, clip, AdamW."""
    model = tiny_model(VOCABULARY)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], betas=CONFIG.betas
    )
    results = []
    for step in range(num_steps):
        sequences = sequences_of(step)
        (row,) = pack(sequences, sum(len(sequence.ids) for sequence in sequences))
        loss = -token_logprobs(model, row).sum() / num_loss_tokens(sequences)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(CONFIG, step, 6)
        optimizer.step()
        optimizer.zero_grad()
        results.append((float(loss.detach()), float(norm)))
    return results, {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_steps_of_small_rows_equal_plain_pytorch_on_the_large_batch(zero_stage: Zero) -> None:
    expected, weights = torch_reference(num_steps=3)
    engine = make_engine(zero_stage)
    results = [engine_step(engine, step, row_tokens=45) for step in range(3)]
    assert results == [pytest.approx(pair, rel=1e-4) for pair in expected]
    for name, tensor in weights_of(engine).items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-4, atol=1e-4)


def test_how_a_step_is_cut_changes_neither_loss_nor_gradient() -> None:
    results = [engine_step(make_engine(), 0, row_tokens) for row_tokens in (40, 64, 124)]
    assert len({len(pack(sequences_of(0), row_tokens)) for row_tokens in (40, 64, 124)}) == 3
    assert results[1:] == [pytest.approx(results[0], rel=1e-5)] * 2


@pytest.mark.parametrize(
    ("zero_stage", "dtype"),
    [(0, torch.float32), (2, torch.float32), (3, torch.float32), (1, torch.bfloat16), (2, torch.bfloat16)],
)
def test_resuming_gives_the_same_bits(zero_stage: Zero, dtype: torch.dtype, tmp_path: Path) -> None:
    engine = make_engine(zero_stage, dtype)
    for step in range(2):
        engine_step(engine, step)
    engine.save(tmp_path, {"cursor": 2})
    drawn = torch.rand(3)
    expected = [engine_step(engine, step) for step in (2, 3)]
    resumed = make_engine(zero_stage, dtype)
    assert resumed.resume(tmp_path) == {"cursor": 2}
    assert resumed.num_steps == 2
    assert torch.equal(torch.rand(3), drawn)
    assert [engine_step(resumed, step) for step in (2, 3)] == expected
    before, after = weights_of(engine), weights_of(resumed)
    assert all(torch.equal(before[name], after[name]) for name in before)
    if zero_stage < 3:  # numbers parameters over all engines of a process
        assert saved_files(engine, tmp_path / "whole") == saved_files(resumed, tmp_path / "resumed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offloaded_states_return_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    """Between steps master weights and moments are offloaded, and saved and resumed from there."""
    stays, moves = make_engine(3, dtype), make_engine(3, dtype)
    for step in range(4):
        assert engine_step(moves, step) == engine_step(stays, step)
        states = moves._deepspeed.basic_optimizer.state
        held = [*states, *(state[name] for state in states.values() for name in ("exp_avg", "exp_avg_sq"))]
        before, values = [tensor.data_ptr() for tensor in held], [tensor.clone() for tensor in held]
        moves.states.put_away()
        moves.states.put_away()
        if step == 0:
            assert all(tensor.data_ptr() != place for tensor, place in zip(held, before, strict=True))
            num_weights = sum(p.numel() for p in tiny_model(VOCABULARY).parameters())
            assert sum(tensor.nbytes for tensor in held) == 12 * num_weights
        assert all(torch.equal(tensor, value) for tensor, value in zip(held, values, strict=True))
        if step == 1:
            moves.save(tmp_path, {"cursor": 2})
        moves.states.take_back()
    resumed = make_engine(3, dtype)
    resumed.resume(tmp_path)
    for step in (2, 3):
        engine_step(resumed, step)
    expected = weights_of(stays)
    for engine in (moves, resumed):
        found = weights_of(engine)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def saved_files(engine: TrainingEngine, directory: Path) -> dict[str, str]:
    """sha256 of each file of a state."""
    assert engine.save(directory, {"step": 4})
    return sums_of(directory / "step-4")


def test_only_the_last_whole_checkpoint_stays_and_counts(tmp_path: Path) -> None:
    engine = make_engine()
    engine.save(tmp_path, {"cursor": 0})
    engine_step(engine, 0)
    engine.save(tmp_path, {"cursor": 1})
    assert [path.name for path in tmp_path.glob("*-*")] == ["step-1"]
    (tmp_path / "partial-9").mkdir()  # left by a process that was killed while saving
    resumed = make_engine()
    assert resumed.resume(tmp_path) == {"cursor": 1}


def test_a_checkpoint_is_whole_with_the_sums_of_every_rank(tmp_path: Path) -> None:
    """No rank waits for one with a slow disk. Until its part exists, the checkpoint before counts."""
    engine = make_engine()
    engine.save(tmp_path, {"cursor": 0})
    engine_step(engine, 0)
    engine.save(tmp_path / "next", {"cursor": 1})
    checkpoint = (tmp_path / "next" / "step-1").rename(tmp_path / "step-1")
    sums = sums_of(checkpoint)
    (checkpoint / "sums-0-of-1.json").unlink()
    add_sums(checkpoint, sums, rank=1, ranks=2)
    assert make_engine().resume(tmp_path) == {"cursor": 0}
    add_sums(checkpoint, {}, rank=0, ranks=2)
    assert make_engine().resume(tmp_path) == {"cursor": 1}


def test_a_checkpoint_of_an_earlier_version_is_resumed_from_and_checked(tmp_path: Path) -> None:
    engine = make_engine()
    engine.save(tmp_path, {"cursor": 0})
    checkpoint = tmp_path / "step-0"
    (checkpoint / "sums-0-of-1.json").rename(checkpoint / ALL_SUMS)
    assert make_engine().resume(tmp_path) == {"cursor": 0}
    (checkpoint / ALL_SUMS).write_text(json.dumps(dict.fromkeys(sums_of(checkpoint), "0" * 64)))
    with pytest.raises(ValueError, match="changed since it was saved"):
        make_engine().resume(tmp_path)


def test_a_rank_reads_again_no_file_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are made while writing and checked while loading: a checkpoint has 900 GB at 32B."""
    engine = make_engine(2)
    opened: list[str] = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, name: opened.append(f.name) or real(f, name))
    engine.save(tmp_path, {})
    assert opened == []
    stranger = tmp_path / "step-0" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    stranger.write_bytes(b"of the other rank")
    add_sums(stranger.parent, sums_of(stranger.parent) | {stranger.name: "0" * 64}, rank=0, ranks=1)
    make_engine(2).resume(tmp_path)
    assert sorted(Path(name).name for name in opened) == [
        "mp_rank_00_model_states.pt",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
    ]
    stranger.unlink()
    with pytest.raises(
        ValueError, match=r"rank_1_mp_rank_00_optim_states\.pt: missing; delete .* and run again"
    ):
        make_engine(2).resume(tmp_path)


@pytest.mark.parametrize(("zero_stage", "dtype"), [(2, torch.bfloat16), (3, torch.bfloat16)])
def test_gradients_go_over_in_float32(zero_stage: Zero, dtype: torch.dtype) -> None:
    """In bfloat16 the sum over ranks would lose terms below a 256th of the largest."""
    engine = make_engine(zero_stage, dtype)
    assert engine._deepspeed.communication_data_type == torch.float32
    assert engine._deepspeed.optimizer.communication_data_type == torch.float32


def test_every_group_of_ranks_has_time_for_a_checkpoint() -> None:
    """DeepSpeed makes its own groups with the backend's timeout, ten minutes for NCCL."""
    make_engine(2)
    groups = torch.distributed.distributed_c10d._world.pg_map
    timeouts = {group._get_backend(torch.device("cpu")).options._timeout for group in groups}
    assert timeouts == {LONGEST_WAIT}


def test_a_step_that_is_done_again_is_saved_again(tmp_path: Path) -> None:
    """A kill may come after the critic's part and before the policy's."""
    engine = make_engine()
    engine.save(tmp_path, {"attempt": 1})
    engine.save(tmp_path, {"attempt": 2})
    assert make_engine().resume(tmp_path) == {"attempt": 2}


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    engine = make_engine()
    assert engine.resume(tmp_path) is None and engine.num_steps == 0


class Hostile:
    """A record that touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(("zero_stage", "file"), [(0, "*model_states.pt"), (2, "*optim_states.pt")])
def test_a_hostile_checkpoint_is_refused_unexecuted(zero_stage: Zero, file: str, tmp_path: Path) -> None:
    engine = make_engine(zero_stage)
    engine.save(tmp_path, {"cursor": 0})
    [path] = tmp_path.glob(f"step-0/{file}")
    state = torch.load(path, weights_only=False) | {"ds_version": Hostile(tmp_path / "touched")}
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"changed since it was saved .*; delete .* and run again"):
        make_engine(zero_stage).resume(tmp_path)
    forged = hashlib.sha256(path.read_bytes()).hexdigest()  # a forger also changes the sum
    add_sums(path.parent, sums_of(path.parent) | {path.name: forged}, rank=0, ranks=1)
    with pytest.raises(ValueError, match=r"holds more than weights and numbers.*; opening it could run code"):
        make_engine(zero_stage).resume(tmp_path)
    assert not (tmp_path / "touched").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "touched").exists()  # the pickle would have run


def test_bfloat16_learns_as_float32_does() -> None:
    exact, half = make_engine(0), make_engine(2, torch.bfloat16)
    for step in range(4):
        expected, loss = engine_step(exact, step), engine_step(half, step)
        assert loss == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_gradient_checkpointing_saves_memory_and_changes_no_value(zero_stage: Zero) -> None:
    results, saved = [], []
    for checkpointing in (False, True):
        engine = make_engine(zero_stage, gradient_checkpointing=checkpointing)
        held = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal held
            held += tensor.numel()
            return tensor

        (row,) = pack(sequences_of(0), 124)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            share = -engine.token_logprobs(row).sum() / row.num_loss_tokens
        engine.backward(share)
        results.append((float(share.detach()), engine.step()))
        saved.append(held)
    assert results[1] == pytest.approx(results[0], rel=1e-6)
    assert saved[1] < 0.3 * saved[0], saved


def test_gradient_checkpointing_refuses_dropout() -> None:
    model = tiny_model(VOCABULARY)
    model.config.attention_dropout = 0.1
    config = CONFIG.model_copy(update={"gradient_checkpointing": True})
    with pytest.raises(ValueError, match="sets attention_dropout, which would make log-probs random"):
        TrainingEngine(model, config, total_steps=1)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    with pytest.raises(
        ValueError, match="sets resid_pdrop, embd_pdrop, attn_pdrop, which would make log-probs random"
    ):
        TrainingEngine(GPT2LMHeadModel(GPT2Config(**sizes)), config, total_steps=1)
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, intermediate_size=64))
    assert neox.config.classifier_dropout, "no dropout of a language model"
    TrainingEngine(neox, config, total_steps=1)


@pytest.mark.parametrize(("zero_stage", "dtype"), [(2, torch.float32), (3, torch.bfloat16)])
def test_offload_changes_no_value_and_resumes(zero_stage: Zero, dtype: torch.dtype, tmp_path: Path) -> None:
    plain, offloaded = make_engine(zero_stage, dtype), make_engine(zero_stage, dtype, offload=True)
    for step in range(2):
        expected = engine_step(plain, step)
        assert engine_step(offloaded, step) == pytest.approx(expected, rel=1e-5)
    offloaded.save(tmp_path, {})
    expected = engine_step(offloaded, 2)
    resumed = make_engine(zero_stage, dtype, offload=True)
    resumed.resume(tmp_path)
    assert engine_step(resumed, 2) == expected


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("factor", [float("nan"), 1e6])
def test_a_bad_gradient_changes_no_weight(zero_stage: Zero, factor: float) -> None:
    """A gradient that is not finite or over the bound stops training or skips the step, as configured."""
    stopping = make_engine(zero_stage, grad_norm_bound=1e3)
    skipping = make_engine(zero_stage, grad_norm_bound=1e3, on_bad_gradient="skip")
    before = {name: value.clone() for name, value in skipping.weights()}
    for engine in (stopping, skipping):
        engine.backward(engine.token_logprobs(pack(sequences_of(0), 124)[0]).sum() * factor)
    with pytest.raises(TrainingStopped, match=r"optimizer step 1: .*on_bad_gradient = 'skip'"):
        stopping.step()
    assert stopping.num_steps == 0
    skipping.step()
    assert skipping.skipped and skipping.num_steps == 1
    assert all(torch.equal(before[name], value) for name, value in skipping.weights())
    engine_step(skipping, 1)
    assert not skipping.skipped
    assert any(not torch.equal(before[name], value) for name, value in skipping.weights())


def test_tied_weights_are_handed_out_under_both_names() -> None:
    names = [name for name, _ in make_engine(3).weights()]
    assert "lm_head.weight" in names and "model.embed_tokens.weight" in names


def test_deepspeed_prints_nothing_on_stdout(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    engine = make_engine(2)
    engine_step(engine, 0)
    engine.save(tmp_path, {})
    engine.resume(tmp_path)
    assert capfd.readouterr().out == ""


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule="cosine")
    rates = [learning_rate_at(config, step, 6) for step in range(7)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464, 0.0], abs=1e-4)
    constant = OptimizerConfig(learning_rate=1.0, warmup_steps=2)
    assert [learning_rate_at(constant, step, 6) for step in (0, 1, 5)] == [0.5, 1.0, 1.0]


def test_zero3_cuts_a_model_before_anything_moves_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed moves a whole module to the device unless its parameters are already partitioned."""
    whole: list[int] = []

    def moved(module: torch.nn.Module, *_: object) -> torch.nn.Module:
        whole.append(max(parameter.numel() for parameter in module.parameters()))
        return module

    monkeypatch.setattr(PackedModel, "to", moved, raising=False)
    make_engine(3)
    assert whole == []
    make_engine(2)
    assert whole
