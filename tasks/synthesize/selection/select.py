"""Selects the verified traces to train on: quality, near-duplicates, decontamination, difficulty, balance.

Each filter sees the traces that the ones before it kept; a rejected trace keeps its first reason. Equal traces in equal
order give an equal selection.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tasks.shared.rows.ngrams import shared_gram
from tasks.shared.traces.dialect import Dialect
from tasks.synthesize.selection.balance import balance
from tasks.synthesize.selection.config import SelectionConfig
from tasks.synthesize.selection.difficulty import judge_difficulty
from tasks.synthesize.selection.judging import Judge, judge_code
from tasks.synthesize.selection.near_duplicates import NearDuplicates
from tasks.synthesize.selection.own_text import OwnText
from tasks.synthesize.selection.quality import judge_quality
from tasks.synthesize.traces import Checked, Reason, Verdict, WrittenTrace

Filter = Callable[[WrittenTrace, Verdict, OwnText], Verdict]


@dataclass(frozen=True, slots=True)
class References:
    """The data with which traces are compared."""

    # n-grams of the evaluation problems, each with a problem's id
    grams: Mapping[str, str] = field(default_factory=dict)
    pass_rates: Mapping[str, float] | None = None  # of the given model, by problem id or text
    judge: Judge | None = None


def select(
    checked: Sequence[Checked], config: SelectionConfig, dialect: Dialect, references: References
) -> list[Checked]:
    """All traces in their order; those that a filter rejects have its reason."""

    def quality(written: WrittenTrace, verdict: Verdict, own: OwnText) -> Verdict:
        return judge_quality(written, verdict, own, config)

    selected = _apply(checked, dialect, quality)
    if references.judge is not None and config.judge_majority:
        selected = judge_code(selected, references.judge, config.judge_majority)
    for passes in _filters(config, references):
        selected = _apply(selected, dialect, passes)
    return selected if config.most_traces is None else balance(selected, config.most_traces)


def _apply(checked: Sequence[Checked], dialect: Dialect, judge: Filter) -> list[Checked]:
    return [
        (
            written,
            judge(written, verdict, OwnText.of(verdict.trace, dialect)) if verdict.accepted else verdict,
        )
        for written, verdict in checked
    ]


def _filters(config: SelectionConfig, references: References) -> list[Filter]:
    """The filters that the recipe uses, in their order, after quality and judge."""
    kept = NearDuplicates(config.max_similarity)
    n, rates = config.decontaminate_ngram, references.pass_rates

    def duplicates(written: WrittenTrace, verdict: Verdict, own: OwnText) -> Verdict:
        like = kept.add(written.id, str(own))
        if like is None:
            return verdict
        detail = f"similarity {like[1]:.2f} to {like[0]}"
        return replace(verdict, reason=Reason.NEAR_DUPLICATE, detail=detail)

    def contamination(written: WrittenTrace, verdict: Verdict, own: OwnText) -> Verdict:
        grams = (shared_gram(text, references.grams, n) for text in (written.problem.problem, str(own)))
        shared = next(filter(None, grams), None)
        if shared is None:
            return verdict
        detail = f"{shared!r} stands in evaluation problem {references.grams[shared]}"
        return replace(verdict, reason=Reason.CONTAMINATED, detail=detail)

    def difficulty(written: WrittenTrace, verdict: Verdict, own: OwnText) -> Verdict:
        assert rates is not None
        reason, detail, rate = judge_difficulty(written.problem, rates, config)
        scores = replace(verdict.scores, pass_rate=rate)
        return replace(verdict, reason=reason, detail=detail, scores=scores)

    uses = {duplicates: config.max_similarity < 1, contamination: n > 0, difficulty: rates is not None}
    return [judge for judge, is_used in uses.items() if is_used]
