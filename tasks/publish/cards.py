"""Write model cards and dataset cards: front matter by huggingface_hub, text by the templates beside this file."""

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
    """Write the card of a checkpoint or adapter.

    `facts` are those of its certificate, or None to publish without a score. `certificate` is the sha256 of the
    published certificate, or "".
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
    """Write the card of traces or rollouts. `own_card` is the README in the artifact."""
    from huggingface_hub import DatasetCardData

    configs, text = split_card(own_card)
    text = f"#{text}" if text.startswith("# ") else text  # one level below the repository's heading
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
    """Return front matter ("" without one) and text of a card."""
    found = re.match(r"---\n(.*?)\n---\n+", card, re.DOTALL)
    return (found[1], card[found.end() :]) if found else ("", card)


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown; text of others goes through `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "percent": lambda value: f"{value * 100:.1f} %"}
    return environment.get_template(template).render(**values)


def _cell(text: object) -> str:
    """Escape a text so that it cannot leave its table cell."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").replace("<", "&lt;")
