"""One executor: the same program gives the same observation in synthesis, RL and evaluation.

Each stage uses its own sections of one recipe: synthesis executes the blocks of a written trace, RL and evaluation
sample with their policies. Three servers, as the stages start them.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast

import pytest

from tasks.recipes import Recipe, load_recipe
from tasks.rl.round import rollout_policy
from tasks.rl.spec import RlStage
from tasks.shared.config import EvaluateStage
from tasks.shared.evaluation.sampling import Sampler
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.sandbox import Interpreter
from tasks.shared.tools.interpreter import make_interpreter
from tasks.shared.traces.observation import observe
from tasks.synthesize.execution import run_blocks
from tasks.synthesize.spec import SynthesizeStage
from tests.unit.generation.scripted import ScriptedGenerator
from tests.unit.generation.tiny import tiny_tokenizer

PROGRAMS = [
    "print(1 + 1)",
    "import sympy\nx = sympy.symbols('x')\nprint(sympy.solve(x**2 - 5*x + 6, x))",
    "print('before')\ndef f(n):\n    return 1 / n\nf(0)",
    "def f(:",
    "import random, numpy\nprint({'b', 'a', 'c'}, random.random(), numpy.random.rand())",
    "import socket\nsocket.socket()",
    "x = [0] * 10**10",
    "print('m' * 9000)",
    "import sys\nprint('left')\nsys.exit(3)",
    "x = 5",
]
TOKENIZER = tiny_tokenizer()


def sampled(policy: RolloutPolicy, interpreter: Interpreter) -> list[str | None]:
    """The observation of each program in a trajectory."""
    scripts = {f"{n}/0": f"<code>\n```python\n{code}\n```\n</code>" for n, code in enumerate(PROGRAMS)}
    generator = ScriptedGenerator(TOKENIZER, scripts)
    prompt = tuple(TOKENIZER.encode("Q?"))
    requests = [RolloutRequest(str(n), 0, prompt, seed=0) for n in range(len(PROGRAMS))]
    trajectories = list(rollout(requests, generator, interpreter, TOKENIZER, policy))
    by_number = {int(trajectory.problem_id): trajectory for trajectory in trajectories}
    return [by_number[n].calls[0].observation for n in range(len(PROGRAMS))]


def recipe_with(feedback: str) -> Recipe:
    base = load_recipe("tiny")
    traces = base.traces.model_copy(update={"error_feedback": feedback, "max_calls": 1})
    generation = base.generation.model_copy(update={"max_response_tokens": 30_000})
    rl = base.rl.model_copy(update={"tokens_per_micro_batch": 32_000})
    return base.model_copy(update={"traces": traces, "generation": generation, "rl": rl})


@pytest.fixture(scope="module")
def interpreters() -> Iterator[list[Interpreter]]:
    """A server for each stage, from its own section."""
    recipe = load_recipe("tiny")
    with ExitStack() as stack:
        yield [
            stack.enter_context(make_interpreter(recipe.for_stage(stage).sandbox))
            for stage in ("synthesize", "rl", "evaluate")
        ]


@pytest.mark.parametrize("feedback", ["full", "last_line"])
def test_same_program_same_observation_in_every_stage(feedback: str, interpreters: list[Interpreter]) -> None:
    recipe = recipe_with(feedback)
    synthesis = cast("SynthesizeStage", recipe.for_stage("synthesize"))
    training = cast("RlStage", recipe.for_stage("rl"))
    evaluation = cast("EvaluateStage", recipe.for_stage("evaluate"))
    results = run_blocks(PROGRAMS, interpreters[0], stateful=False)
    in_synthesis = [observe(result, synthesis.traces.error_feedback) for result in results]
    in_training = sampled(rollout_policy(training), interpreters[1])
    sampler = Sampler(evaluation, ScriptedGenerator(TOKENIZER, {}), interpreters[2], TOKENIZER)
    in_evaluation = sampled(sampler.policy(), interpreters[2])
    assert in_synthesis[0] == "2"
    assert len(set(in_synthesis)) >= 9
    assert in_synthesis == in_training == in_evaluation
