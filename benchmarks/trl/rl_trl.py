"""TRL's GRPOTrainer with this project's sandbox as its tool, a lap each step. benchmarks/rl.py starts it.

    .venv-trl/bin/python -m benchmarks.trl.rl_trl <checkpoint> <problems.parquet> <micro-batch>

Runs in TRL's own environment. TRL finds a call when the model ends its turn, and parses it with a response template.
Here the turn ends at `</code>`. Chat template and response template express the ReTool dialect in TRL's terms, so that
both sides sample the same token sequences from the same model.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig, GRPOTrainer

from benchmarks.trl import settings
from benchmarks.trl.laps import Track
from tasks.shared.grading import grade
from tasks.shared.sandbox import Interpreter, Limits, SandboxSettings
from tasks.shared.traces.observation import observe
from tasks.shared.traces.own_words import own_words

# The dialect's trace, message by message. Line breaks are in expressions, since Jinja drops one after a tag. TRL tests
# a template with a tool of another name, hence the second form.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}{{ '\n<interpreter>\n' + message['content'] + '\n</interpreter>\n' }}"
    "{% elif message.get('tool_calls') %}{{ '<|im_start|>assistant\n' + message['content'] }}"
    "{% for call in message['tool_calls'] %}{% if call['function']['name'] == 'python' %}"
    "{{ '<code>\n```python\n' + call['function']['arguments'].get('code', '') + '\n```\n</code>' }}"
    "{% else %}{{ call['function']['name'] }}{{ call['function']['arguments'] | tojson }}</code>{% endif %}{% endfor %}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'tool' %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": ["<|im_start|>assistant\n", "</interpreter>\n"],
    "fields": {
        "tool_calls": {
            "open": "<code>\n```python\n",
            "close_pattern": r"\n?```\n</code>",
            "repeats": True,
            "content": "text",
            "transform": {
                "type": "function",
                "function": {"name": "python", "arguments": {"code": "{content}"}},
            },
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}


def load_tokenizer(checkpoint: str) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer in TRL's terms; the model's own end of turn stays in its generation configuration."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.response_template = RESPONSE_TEMPLATE
    tokenizer.eos_token = "</code>"
    return tokenizer


class CountingTrainer(GRPOTrainer):
    """GRPOTrainer that records time and tokens of its sampling."""

    sampled: dict[str, float]

    def _generate(self, prompts: list[Any]) -> Any:
        started = time.perf_counter()
        generated = super()._generate(prompts)
        seconds = time.perf_counter() - started
        _, completion_ids, masks, messages, *_ = generated
        self.sampled = {
            "sampled_tokens": sum(sum(mask) for mask in masks),
            "response_tokens": sum(len(ids) for ids in completion_ids) / len(completion_ids),
            "calls": sum(m["role"] == "tool" for turns in messages for m in turns) / len(messages),
            "sampling_s": seconds,
        }
        return generated


class Laps(TrainerCallback):
    """Ends a lap after each optimizer step."""

    def __init__(self, track: Track) -> None:
        self.track = track
        self.trainer: CountingTrainer | None = None
        self.reward = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the trainer."""
        assert self.trainer is not None
        self.track.lap(reward=self.reward, **self.trainer.sampled)


def configuration(output_dir: str, micro_batch: int) -> GRPOConfig:
    """The recipe of the comparison; all else is TRL's default."""
    samples = settings.PROMPTS_PER_STEP * settings.SAMPLES_PER_PROMPT
    return GRPOConfig(
        output_dir=output_dir,
        max_steps=10_000,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=samples // micro_batch,
        num_generations=settings.SAMPLES_PER_PROMPT,
        max_completion_length=settings.MAX_RESPONSE_TOKENS,
        max_tool_calling_iterations=settings.MAX_CALLS,
        loss_type="dapo",  # token-level, as the other side's
        beta=0.0,
        epsilon=settings.CLIP_LOW,
        epsilon_high=settings.CLIP_HIGH,
        learning_rate=settings.RL_LEARNING_RATE,
        lr_scheduler_type="constant",
        **settings.TRL_ARGUMENTS,
    )


def main() -> None:
    """Train until no turn comes."""
    track = Track()
    checkpoint, problems, micro_batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    limits = Limits(
        wall_s=settings.WALL_S,
        cpu_s=settings.WALL_S,
        memory_mb=settings.MEMORY_MB,
        output_chars=settings.OUTPUT_CHARS,
    )
    sandbox = SandboxSettings(limits, workers=settings.SANDBOX_WORKERS, preload=settings.PRELOAD)
    laps = Laps(track)
    with tempfile.TemporaryDirectory() as output_dir, Interpreter(sandbox) as interpreter:

        def python(code: str) -> str:
            """Run a program.

            Args:
                code: Python that prints its result.
            """
            return observe(interpreter.run(code), "last_line")

        def reward(completions: list[list[dict[str, Any]]], answer: list[str], **kwargs: Any) -> list[float]:
            """1 for a right answer in the model's own words, else -1, by this project's grader."""
            responses = [
                own_words(turn["content"] or "" for turn in turns if turn["role"] == "assistant")
                for turns in completions
            ]
            rewards = [
                1.0 if grade(text, a).correct else -1.0 for text, a in zip(responses, answer, strict=True)
            ]
            laps.reward = sum(rewards) / len(rewards)
            return rewards

        rows = pd.read_parquet(problems)
        trainer = CountingTrainer(
            model=AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32"),
            processing_class=load_tokenizer(checkpoint),
            reward_funcs=reward,
            tools=[python],
            args=configuration(output_dir, micro_batch),
            train_dataset=Dataset.from_dict(
                {
                    "prompt": [[{"role": "user", "content": text}] for text in rows["problem"]],
                    "answer": list(rows["answer"]),
                }
            ),
            callbacks=[laps],
        )
        laps.trainer = trainer
        trainer.train()


if __name__ == "__main__":
    main()
