"""Layouts that `plan` chooses where the recipe as written does not fit, and why others do not."""

import json
from typing import Any

import pytest

from data.gpus import find_gpu, gpu_of_memory
from flows.commands.cli import main
from flows.planning.layouts import Layout, choose, lay_out, work_of
from flows.planning.memory import GIB, GRAPHS
from tasks.recipes import load_recipe

H100, H200 = int(79.6 * GIB), int(139.8 * GIB)


def chosen(
    name: str, gpus: int, gpu: int, given: dict[str, Any] | None = None, staleness: int | None = None
) -> list[Layout]:
    recipe = load_recipe(name, given)
    return choose(recipe, gpus, gpu, gpu_of_memory(gpu / GIB), work_of(recipe), given or {}, staleness)


def test_retool_fits_16_gpus_of_141_gib_where_as_written_it_does_not() -> None:
    assert "rl start" in str(lay_out(load_recipe("retool"), 16, H200).refusal())
    layouts = chosen("retool", 16, H200)
    assert {layout.name: layout.refusal() is None for layout in layouts if not layout.sampling_gpus} == {
        "inside": False,
        "inside, offload": True,
        "inside, offload while sampling": True,
    }
    layout = layouts[0]
    assert (layout.sampling_gpus, layout.offload) == (0, True)
    assert layout.changes == {
        "sft.optimizer.ranks": 16,
        "sft.optimizer.nodes": 2,
        "rl.optimizer.offload": True,
        "rl.optimizer.ranks": 16,
        "rl.optimizer.nodes": 2,
    }
    assert load_recipe("retool", layout.changes).rl.optimizer.ranks == 16
    assert 12 * layout.parameters * 2 / 2 < layout.host < 17 * layout.parameters * 2 / 2, (
        "policy and critic, two hosts"
    )


def test_retool_fits_32_gpus_of_80_gib_with_offload_in_a_pool_alone() -> None:
    layouts = chosen("retool", 32, H100, {"rl.optimizer.offload": True})
    assert layouts[0].refusal() is None and all(layout.offload for layout in layouts)
    assert layouts[0].sampling_gpus and layouts[0].tensor_parallel > 1
    assert all(layout.refusal() for layout in layouts if not layout.sampling_gpus), (
        "32B and its trainer on one such GPU"
    )


def test_evaluation_of_32b_does_not_fit_one_gpu_of_80_gib_and_two_hold_it() -> None:
    recipe = load_recipe("retool")
    layout = lay_out(recipe, 32, H100)
    evaluate = layout.phases[-1]
    assert evaluate.name == "evaluate" and not layout.fits(evaluate)
    assert evaluate.memory.sampler > 2 * layout.parameters + GRAPHS
    pool = load_recipe(
        "retool",
        {
            "generation.placement": "pool",
            "generation.pool.tensor_parallel": 2,
            "generation.pool.nodes": 1,
            "generation.pool.servers": 4,
            "rl.sleep_sampler": False,
        },
    )
    two = lay_out(pool, 32, H100)
    assert two.fits(two.phases[-1]) and two.sampling_gpus == 8


def test_a_pool_pays_only_where_steps_overlap() -> None:
    together, apart = chosen("retool_7b", 8, H100)[0], chosen("retool_7b", 8, H100, staleness=1)[0]
    assert together.sampling_gpus == 0, "on-policy one half of the GPUs would wait for the other"
    assert apart.sampling_gpus and together.seconds and apart.seconds
    assert apart.seconds.asynchronous < together.seconds.synchronous < apart.seconds.synchronous
    assert apart.changes["rl.staleness"] == 1 and apart.step_s == apart.seconds.asynchronous


def test_asynchronous_recipes_are_planned_by_asynchronous_steps() -> None:
    written = {
        "generation.placement": "pool",
        "rl.sleep_sampler": False,
        "rl.staleness": 2,
        "rl.update_in_flight": True,
    }
    recipe = load_recipe("retool_7b", written)
    kind, work = gpu_of_memory(H100 / GIB), work_of(recipe)
    layouts = choose(recipe, 8, H100, kind, work, {})
    assert layouts[0].sampling_gpus and layouts[0].staleness == 2
    assert not {"rl.staleness", "rl.update_in_flight"} & layouts[0].changes.keys()
    inside = [layout for layout in layouts if not layout.sampling_gpus]
    assert inside and all(layout.changes["rl.staleness"] == 0 for layout in inside)
    assert all(layout.staleness == 0 for layout in choose(recipe, 8, H100, kind, work, {}, staleness=0))


def test_what_is_given_holds_for_every_layout() -> None:
    given: dict[str, Any] = {"generation.placement": "pool", "rl.sleep_sampler": False}
    given["generation.gpu_memory_utilization"] = 0.8
    layouts = chosen("retool_7b", 8, H100, given)
    assert all(layout.sampling_gpus and layout.share == int(0.8 * H100) for layout in layouts)
    with pytest.raises(ValueError, match=r"no layout of 8 GPUs has rl\.optimizer\.ranks"):
        chosen("retool_7b", 8, H100, {"rl.optimizer.ranks": 7})
    with pytest.raises(ValueError, match="12 GPUs are no whole hosts of 8"):
        chosen("retool_7b", 12, H100)


def test_the_command_names_choice_and_basis_of_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "retool", "--gpus", "16", "--gpu", "h200", "--mean-tokens", "6000"]
    assert main(command) == 0
    shown = " ".join(capsys.readouterr().out.split())  # a narrow terminal breaks lines
    assert "pool 8 + 8, tensor parallel 4, offload sets: " in shown and "rl.optimizer.offload=True" in shown
    assert "mean 6,000" in shown and "published 375 s" in shown
    assert main([*command, "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["layout"] == "pool 8 + 8, tensor parallel 4, offload" and written["gpu"] == int(
        find_gpu("h200").memory_gib * GIB
    )
    assert {row["layout"] for row in written["layouts"] if row["refusal"]} >= {"inside"}
    assert main([*command[:5], "nothing"]) == 2
    assert "gpus.toml: no GPU 'nothing'" in capsys.readouterr().err
    assert main(["plan", "retool", "--gpus", "16", "--gpu", "h200", "--mean-tokens", "99999"]) == 2
    assert "give one between 0 and the longest, 14336" in capsys.readouterr().err
