"""The results of a night, and their page in the Prefect UI: a table, the trend, and an image for each set."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from flows.publish import Row, artifact_key
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.estimates.comparison import compare
from tasks.shared.reporting.charts import curve_image
from tasks.shared.reporting.nights import Drop, Pair, scores_of_night, trends
from tasks.shared.reporting.nights import Night as Score
from tasks.shared.runs.tags import Night


@dataclass(slots=True)
class Tonight:
    """The results of a night so far."""

    day: str  # ISO date
    evaluations: dict[str, ArtifactRef] = field(default_factory=dict)  # by subject
    reports: dict[str, str] = field(default_factory=dict)  # by subject: their location
    pairs: list[Pair] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def publish_night(
    store: Store, tonight: Tonight, nights: Mapping[str, Sequence[Night]], drops: Sequence[Drop]
) -> None:
    """Publish `nightly` (table), `nightly-trend` (page) and `nightly-<set>` (image); `nights`: by subject."""
    scores = [
        score
        for subject, past in nights.items()
        for night in past
        if store.exists(night.evaluation)
        for score in scores_of_night(night.day, subject, store.manifest(night.evaluation))
    ]
    if rows := _rows(tonight, scores, drops):
        create_table_artifact(rows, key="nightly", description=f"Night of {tonight.day}")
    images = {}
    for trend in trends(scores):
        svg = curve_image(trend.title, trend.lines, trend.x_label, percent=True)
        images[trend.title] = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
        create_image_artifact(
            images[trend.title], key=artifact_key(f"nightly-{trend.set}"), description=trend.title
        )
    page = _page(tonight, drops, images)
    create_markdown_artifact(page, key="nightly-trend", description="Accuracy over nights")


def _rows(tonight: Tonight, scores: Sequence[Score], drops: Sequence[Drop]) -> list[Row]:
    """A row for each subject and set: tonight's score with its interval, and both paired differences."""
    rows = []
    dropped = {(drop.tag, drop.set, drop.against) for drop in drops}
    for score in scores:
        if score.day != tonight.day:
            continue
        row: Row = {"checkpoint": score.tag, "set": score.set, "accuracy": round(score.accuracy, 4)}
        row["interval"] = f"{score.low:.3f} to {score.high:.3f}"
        for tag, name, against, before, after in tonight.pairs:
            if (tag, name) == (score.tag, score.set):
                change = compare(before, after).difference
                mark = " significant drop" if (tag, name, against) in dropped else ""
                span = f"{change.interval.low * 100:+.1f} to {change.interval.high * 100:+.1f}"
                row[f"against {against}"] = f"{change.value * 100:+.1f} ({span}){mark}"
        rows.append(row)
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column, "") for column in columns} for row in rows]


def _page(tonight: Tonight, drops: Sequence[Drop], images: Mapping[str, str]) -> str:
    lines = [f"# Night of {tonight.day}", ""]
    lines += [f"- **{drop.message}**" for drop in drops] or ["No significant drop."]
    lines += ["", *(f"- failed: {failure}" for failure in tonight.failures)]
    lines += [f"- {remark}" for remark in tonight.remarks]
    lines += ["", *(f"- report of {name}: `{location}`" for name, location in tonight.reports.items()), ""]
    return "\n".join([*lines, *(f"![{title}]({image})\n" for title, image in images.items())])
