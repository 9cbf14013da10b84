"""Model cards and dataset cards: front matter by huggingface_hub, text by the templates beside this file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.publish.story import Story
from tasks.shared.artifacts import Manifest
from tasks.shared.config import EvaluateStage


def model_card(
    repo: str,
    story: Story,
    licence: str,
    is_adapter: bool,
    facts: Mapping[str, Any] | None,
    config: EvaluateStage | None,
    certificate: str,
) -> str:
    """The card of a checkpoint or adapter; `facts` of its certificate, None where it is published without a score.

    `certificate`: the sha256 of the one beside it, "" for none.
    """
    from huggingface_hub import EvalResult, ModelCardData

    scores = facts["scores"] if facts else {}
    data = ModelCardData(
        license=licence or None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        base_model=story.base.id if story.base and story.base.id else None,
        tags=["tool-integrated-reasoning", "code-interpreter", "tirflow"],
        model_name=repo.partition("/")[2] if scores else None,
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=name,
                dataset_name=name,
                metric_type="accuracy",
                metric_name=f"avg@{values['samples_per_problem']}",
                metric_value=round(values["accuracy"], 4),
            )
            for name, values in scores.items()
        ]
        or None,
    )
    return _render(
        "model_card.md.j2",
        front=data.to_yaml(),
        repo=repo,
        story=story,
        licence=licence,
        is_adapter=is_adapter,
        facts=facts,
        config=config,
        certificate=certificate,
    )


def dataset_card(repo: str, story: Story, licence: str, manifest: Manifest, own_card: str) -> str:
    """The card of traces or rollouts; `own_card`: the README that lies in the artifact."""
    from huggingface_hub import DatasetCardData

    configs, text = split_card(own_card)
    text = f"#{text}" if text.startswith("# ") else text  # below the repository's own heading
    data = DatasetCardData(
        license=licence or None,
        task_categories=["text-generation"],
        tags=["tool-integrated-reasoning", "tirflow"],
    )
    return _render(
        "dataset_card.md.j2",
        front=f"{data.to_yaml()}\n{configs}".strip(),
        repo=repo,
        story=story,
        licence=licence,
        manifest=manifest,
        text=text,
    )


def split_card(card: str) -> tuple[str, str]:
    """Front matter and text of a card; the front matter is "" where there is none."""
    found = re.match(r"---\n(.*?)\n---\n+", card, re.DOTALL)
    return (found[1], card[found.end() :]) if found else ("", card)


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown; what is not ours goes through `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "percent": _percent}
    return environment.get_template(template).render(**values)


def _cell(text: object) -> str:
    """A text that cannot leave its table cell."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").replace("<", "&lt;")


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"
