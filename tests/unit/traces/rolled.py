"""Rollouts of scripted text with any tokenizer: a sampled response must be parsed, verified and encoded alike.

Shared by the suite with small tokenizers, which `make test` runs, and the one with those of real models.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Sampling
from tasks.shared.traces.dialect import DIALECTS, Dialect
from tasks.shared.traces.encoding import encode_trace, written_trace
from tasks.shared.traces.trajectory import FinishReason, Trajectory, turns_between
from tasks.synthesize.traces import TrainingProblem, Verdict, WrittenTrace
from tasks.synthesize.verify import Rules, verify
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.synthesize.in_process import InProcessRunner

MOST = 4096
PROBLEM = TrainingProblem("p", "What is 1 + 2?", "3", "test", "")
RETOOL, TORL = DIALECTS["retool"], DIALECTS["torl"]
# what a model writes between a block and the words after it, in one token with the end of the block
GAPS = ("", "\n", "\n\n", "\r\n", " ", ".\n", "'", ");\n\n", ">", "</", "s", "\n\n\n", "  \n")


def turns(dialect: Dialect) -> list[str]:
    """A block in several forms, among them stop strings inside programs, and an incomplete one."""
    stop = dialect.stop
    programs = [
        "print(1 + 2)",
        "print('a' * 40)\nprint(1 + 2)",
        f"print('{stop}'[:0] + '3')",
        f'x = """\n```\n{stop}\n"""\nprint(3)',
        "print('```\\n</interpreter>\\n')\nprint(3)",
        "print('\\n\\n3')",
        "print('caf\\u00e9 cafe\\u0301 \\U0001f600 <|im' + '_end|>')",
        "raise ValueError('<interpreter>')",
        "",
    ]
    written = [f"Let me compute.\n{dialect.write_call(program)}" for program in programs]
    broken = written[0].replace('"arguments"', '"argument"', 1).replace("\n```\n", "\n", 1)
    return [*written, broken]


def policy(dialect: Dialect, most: int = MOST, **changes: object) -> RolloutPolicy:
    """A policy of four calls, announced."""
    return RolloutPolicy(dialect, 4, True, "last_line", False, Sampling(), most, **changes)  # type: ignore[arg-type]


def roll(
    tokenizer: PreTrainedTokenizerBase, dialect: Dialect, script: str | Sequence[int], most: int = MOST
) -> Trajectory:
    """The rollout of a model that says `script` whatever the feedback."""
    request = RolloutRequest("p", 0, tuple(tokenizer.encode("Q?")), seed=0)
    generator = ScriptedGenerator(tokenizer, {"p/0": script})
    [trajectory] = rollout([request], generator, InProcessRunner(), tokenizer, policy(dialect, most))  # type: ignore[arg-type]
    whole = (*trajectory.prompt_ids, *trajectory.response_ids)
    for context in generator.contexts["p/0"]:
        assert whole[: len(context)] == context, "ids are appended only"
    return trajectory


def verdict(dialect: Dialect, trace: str) -> Verdict:
    """Verification's verdict on a rollout's text."""
    rules = Rules(dialect, 4, "last_line", announce_remaining_calls=True, stateful=False)
    return verify(WrittenTrace("p/0", PROBLEM, trace), rules, InProcessRunner())  # type: ignore[arg-type]


def check(tokenizer: PreTrainedTokenizerBase, dialect: Dialect, trajectory: Trajectory) -> None:
    """Check that the text is cut where ids were appended, and passes verification."""
    trace = written_trace(tokenizer, dialect, trajectory.text, trajectory.shown)
    segments = dialect.split(trace)
    own = tuple(segment.text for segment in segments if not segment.is_feedback)
    assert own == turns_between(trajectory.text, trajectory.shown)
    places = [0]
    for segment in segments:
        places.append(places[-1] + len(segment.text))
    spans = [tuple(places[i : i + 2]) for i, segment in enumerate(segments) if segment.is_feedback]
    assert spans == list(trajectory.shown) or dialect.speaks_tools
    observations = [segment.observation or "" for segment in segments if segment.is_feedback]
    assert len(observations) == len(trajectory.calls)
    assert (trajectory.finish, verdict(dialect, trace).reason) == (FinishReason.EOS, "")


def check_encoding(tokenizer: PreTrainedTokenizerBase, dialect: Dialect, trajectory: Trajectory) -> None:
    """Check that SFT's encoding of the same text equals the rollout, mask included."""
    trace = written_trace(tokenizer, dialect, trajectory.text, trajectory.shown)
    encoded = encode_trace(tokenizer, dialect, PROBLEM.problem, trace, instructed=False)
    assert encoded.response_ids == tuple(trajectory.response_ids)
    ends = {call.turn_end for call in trajectory.calls} if dialect.speaks_tools else set()
    assert encoded.loss_mask == tuple(
        bool(drawn) or place in ends for place, drawn in enumerate(trajectory.loss_mask)
    )
