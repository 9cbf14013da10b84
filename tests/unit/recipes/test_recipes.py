"""Recipes: every mistake is one line that names file, key and remedy, before anything starts."""

import pytest

from tasks.recipes import STAGES, load_recipe, resolve, resolve_recorded, round_recipe

MINIMAL = """
[model]
source = "tiny"
[data]
train = [{name = "train", source = "tiny", limit = 10}]
evaluation = [{name = "held_out", source = "tiny", split = "held_out", limit = 10}]
"""


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_minimal_recipe_resolves_to_defaults(tmp_path):
    recipe = load_recipe(write(tmp_path, MINIMAL))
    assert recipe.name == "mine"
    assert recipe.rl.clip_high == 0.28
    assert recipe.evaluate.top_p == 0.7


def test_overrides_reach_nested_keys(tmp_path):
    recipe = load_recipe(write(tmp_path, MINIMAL), {"rl.rounds": 2, "sft.optimizer.learning_rate": 0.5})
    assert (recipe.rl.rounds, recipe.sft.optimizer.learning_rate) == (2, 0.5)


def test_an_override_that_is_a_section_changes_the_keys_it_names(tmp_path):
    """As with `extends`, no other key of the section returns to its default."""
    below = load_recipe("tiny")
    nested = {
        "sft": {"max_steps": 3, "optimizer": {"warmup_steps": 5}},
        "rl.optimizer": {"betas": [0.9, 0.999]},
    }
    changed = load_recipe("tiny", nested)
    optimizer = below.sft.optimizer.model_copy(update={"warmup_steps": 5})
    assert changed.sft == below.sft.model_copy(update={"max_steps": 3, "optimizer": optimizer})
    assert changed.rl.optimizer == below.rl.optimizer.model_copy(update={"betas": (0.9, 0.999)})
    dotted = {"sft.max_steps": 3, "sft.optimizer.warmup_steps": 5, "rl.optimizer.betas": [0.9, 0.999]}
    assert changed == load_recipe("tiny", dotted)
    assert load_recipe("tiny", {"evaluate": {"protocol": "torl"}}).evaluate.temperature == 0.0


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        ("[rl]\nround = 2", ["unknown key 'rl.round'", "did you mean 'rounds'?"]),
        (
            "[sft.optimizer]\nlearning_rat = 2",
            ["sft.optimizer.learning_rat", "did you mean 'learning_rate'?"],
        ),
        ("[rl]\nrounds = 0", ["rl.rounds", "greater than or equal to 1"]),
        ("[rl]\ntop_p = 0.7", ["rl", "top_p must be 1.0", "evaluate.top_p"]),
        ("[traces]\ndialect = 'text'", ["max_calls = 0"]),
        ("[rl\n", ["not valid TOML"]),
    ],
)
def test_mistakes_are_one_line_with_key_and_remedy(tmp_path, extra, parts):
    path = write(tmp_path, MINIMAL + extra)
    with pytest.raises(ValueError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in [path, *parts]:
        assert part in message


LENGTHS = [{"generation.max_response_tokens": 64, "traces": {"max_calls": 1}}, {}, {"rl.problems": ["tiny"]}]


def test_rounds_as_a_list_change_what_they_name():
    recipe = load_recipe("tiny", {"rl.rounds": LENGTHS})
    assert recipe.rl.num_rounds == 3
    first, second, third = (round_recipe(recipe, number) for number in (1, 2, 3))
    assert (first.generation.max_response_tokens, first.traces.max_calls) == (64, 1)
    assert (second.generation, second.traces) == (recipe.generation, recipe.traces)
    assert third.rl.problems == ("tiny",) and first.rl.problems == ()
    assert [one.rl.rounds for one in (first, second, third)] == [3, 3, 3]
    later = load_recipe("tiny", {"rl.rounds": [*LENGTHS[:2], {"rl.temperature": 0.9}]})
    assert round_recipe(later, 1).for_stage("rl") == first.for_stage("rl"), (
        "a later entry is no change to a round"
    )
    assert round_recipe(load_recipe("tiny"), 1) == load_recipe("tiny")
    with pytest.raises(ValueError, match=r"rl.rounds has 3 entries, and round 4 is none of them"):
        round_recipe(recipe, 4)


@pytest.mark.parametrize(
    ("rounds", "part"),
    [
        ([], "rl.rounds.*or a list of what changes in each round"),
        ([{"rl.steps_per_round": 3}], "round 1: key 'rl.steps_per_round' holds for the whole run"),
        (
            [{}, {"rl": {"optimizer": {"learning_rate": 1e-4}}}],
            "round 2: key 'rl.optimizer.learning_rate' holds",
        ),
        ([{"model.dtype": "bfloat16"}], "round 1: key 'model.dtype' holds for the whole run"),
        ([{"generation.max_tokens": 3}], "round 1: unknown key 'generation.max_tokens'"),
        ([{}, {"generation.max_response_tokens": 9000}], "round 2: .*raise it to"),
        ([{"rl.problems": ["words"]}], "rl.problems: 'words' is no set of data.train, which has tiny"),
    ],
)
def test_an_impossible_round_is_refused(rounds, part):
    with pytest.raises(ValueError, match=part) as caught:
        load_recipe("tiny", {"rl.rounds": rounds})
    assert "\n" not in str(caught.value)


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no file .*use one of"):
        load_recipe("tinny")


def test_a_stage_sees_only_what_it_depends_on(tmp_path):
    path = write(tmp_path, MINIMAL)
    before, after = load_recipe(path), load_recipe(path, {"rl.optimizer.learning_rate": 0.1})
    changed = {stage for stage in STAGES if before.for_stage(stage) != after.for_stage(stage)}
    assert changed == {"rl"}


@pytest.mark.parametrize(
    ("prompt", "key", "value", "concerned"),
    [
        ("instructed", "preload", ["sympy"], True),  # its prompt names them
        ("instructed", "workers", 7, False),
        ("bare", "preload", ["sympy"], False),
    ],
)
def test_sft_depends_on_the_sandbox_where_its_prompt_does(tmp_path, prompt, key, value, concerned):
    path = write(tmp_path, MINIMAL)
    before = load_recipe(path, {"traces.prompt": prompt})
    after = load_recipe(path, {"traces.prompt": prompt, f"sandbox.{key}": value})
    assert (before.for_stage("sft") != after.for_stage("sft")) == concerned


def test_a_protocol_fills_in_what_it_says(tmp_path):
    recipe = load_recipe(write(tmp_path, MINIMAL + "[evaluate]\nprotocol = 'torl'"))
    chosen = recipe.evaluate
    assert (chosen.samples_per_problem, chosen.temperature, chosen.top_p) == (1, 0.0, 1.0)
    stage = recipe.for_stage("evaluate").limited()
    assert (stage.traces.max_calls, stage.generation.max_response_tokens) == (1, 3072)
    assert (recipe.traces.max_calls, recipe.generation.max_response_tokens) == (16, 16384)  # training's own


def test_a_protocol_and_a_key_that_disagree_are_refused(tmp_path):
    path = write(tmp_path, MINIMAL + "[evaluate]\nprotocol = 'retool'\ntop_p = 1.0")
    with pytest.raises(ValueError, match=r"evaluate.top_p = 1.0 disagrees with evaluate.protocol = 'retool'"):
        load_recipe(path)
    with pytest.raises(ValueError, match="no protocol 'aime'; use one of retool, torl"):
        load_recipe(write(tmp_path, MINIMAL), {"evaluate.protocol": "aime"})


def test_a_protocol_override_replaces_resolved_numbers(tmp_path):
    """As for a new evaluation of a run's stored recipe under another protocol."""
    stored = load_recipe(write(tmp_path, MINIMAL + "[evaluate]\nsamples_per_problem = 4")).model_dump()
    assert resolve(stored, {"evaluate.protocol": "torl"}, "stored").evaluate.samples_per_problem == 1
    again = resolve(stored, {"evaluate.protocol": "retool"}, "stored")
    assert again.evaluate.samples_per_problem == 32
    assert resolve(again.model_dump(), {}, "stored") == again
    with pytest.raises(ValueError, match=r"evaluate.samples_per_problem = 8 disagrees"):
        resolve(stored, {"evaluate.protocol": "torl", "evaluate.samples_per_problem": 8}, "stored")


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"rl.tokens_per_micro_batch": 256}, "raise it to"),
        ({"evaluate.temperature": 0.0}, "samples_per_problem = 1"),
        ({"data.train": []}, "data.train"),
        ({"model.source": "hub"}, r"tiny\.toml.*model\.id.*model\.revision"),
        ({"evaluate": {"protocol": ["torl"]}}, r"evaluate.protocol.*valid string"),
        ({"evaluate.protocol": "a\nb"}, r"^[^\n]*no protocol 'a b'[^\n]*$"),
        ({"model.path": "a\nb"}, r"^[^\n]*'a b' is relative[^\n]*$"),
        ({"sandbox.wall_s": float("inf")}, r"sandbox.wall_s.*finite"),
        ({"traces.max_calls": 0, "synthesize.selection.require_code": True}, "its traces have no code"),
        ({"sft.max_steps": 0}, "sft.max_steps"),
        ({"sft.max_steps": "three"}, r"sft.max_steps.*whole|integer.*'three'"),
        ({"sft": 3}, r"'sft' is a section, not a value \(3\); set its keys, like sft\."),
        (["sft.max_steps=3"], r"overrides = \['sft.max_steps=3'\]: write keys and values, like"),
        ({"data.train": [{"name": "x", "source": "tiny", "limit": 0}]}, r"limit.*\(it is 0\)"),
        ({"data.train": [{"name": "x", "source": "tiny", "limit": -5}]}, r"limit.*\(it is -5\)"),
        ({"data.train": [{"name": "../../x", "source": "tiny", "limit": 5}]}, "name"),
        ({"data.train": [{"name": "x", "source": "file", "path": "x.jsonl"}]}, "absolute path"),
        ({"model": {"source": "path", "path": "models/mine"}}, "absolute path"),
    ],
)
def test_impossible_settings_are_refused(overrides, part):
    with pytest.raises(ValueError, match=part):
        load_recipe("tiny", overrides)


def test_a_recorded_recipe_outlives_keys_that_were_taken_out() -> None:
    """A stage that depends on them is refused in one line with key and remedy."""
    recipe = load_recipe("tiny")
    recorded = recipe.model_dump(mode="json")
    recorded["rl"]["optimizer"]["forgotten"] = 1
    recorded["data"]["train"][0]["gone"] = "x"
    recorded["weather"] = {"rain": True}
    for stage in ("report", "evaluate"):
        assert resolve_recorded(recorded, {}, "old", stage) == recipe
    assert resolve_recorded(recorded, {"seed": 7}, "old", "report").seed == 7
    with pytest.raises(ValueError, match=r"run 'old': key 'rl.optimizer.forgotten' is no more.*recipe=NAME"):
        resolve_recorded(recorded, {}, "old", "rl")
    with pytest.raises(ValueError, match=r"run 'old'.*key 'evaluate.samples_per_problem'"):
        resolve_recorded(recorded | {"evaluate": {"samples_per_problem": 0}}, {}, "old", "evaluate")


def test_an_override_enables_a_section_of_a_recorded_recipe():
    recorded = load_recipe("tiny").model_dump(mode="json")
    assert recorded["sft"]["optimizer"]["lora"] is None
    changed = resolve_recorded(recorded, {"sft.optimizer.lora": {"rank": 4, "alpha": 8}}, "old", "sft")
    assert changed.sft.optimizer.lora is not None and changed.sft.optimizer.lora.rank == 4
