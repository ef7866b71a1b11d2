"""What a reply says of few patients is taken out before it leaves the site. Needs no torch.

A score of three cases says how well a model does on three patients who may be known by name; a count of three says that
they exist. Scores of a class with fewer cases than the site's policy asks for lose their values, and counts below it
leave as the largest number below it, so that 1 and 19 look the same.

What this does not do: the mean over the foreground classes still contains a suppressed class, divided by the number of
classes of each case; who knows the scores of all other classes can bound, not compute, what was taken out.
"""

from __future__ import annotations

from omnifed.evaluation.score import SUPPRESSED, Score
from omnifed.federation.replies import EvaluateReply, FitReply, HelloReply, Reply, TrialReply

COUNTS: dict[type[Reply], tuple[str, ...]] = {
    HelloReply: ("train", "unlabelled", "val", "test"),
    FitReply: ("n",),
    EvaluateReply: ("n",),
    TrialReply: ("n", "patients"),
}
"""Fields of replies that count cases or patients."""


def suppress(reply: Reply, min_cases: int) -> Reply:
    """The reply as it may leave the site; applied twice, it is the same.

    Args:
        reply: any reply.
        min_cases: cases that a class needs for its scores to leave; 1 or 0 changes nothing.
    """
    counts = {field: few(getattr(reply, field), min_cases) for field in COUNTS.get(type(reply), ())}
    if isinstance(reply, EvaluateReply):
        return reply.model_copy(update={**counts, "scores": suppressed(reply.scores, min_cases)})
    return reply.model_copy(update=counts) if counts else reply


def few(count: int, min_cases: int) -> int:
    """``count``, or ``min_cases - 1`` where it is smaller than that; 0 stays 0, as nothing is nobody."""
    return count if count <= 0 else max(count, min_cases - 1)


def suppressed(scores: tuple[Score, ...], min_cases: int) -> tuple[Score, ...]:
    """Scores in which each class with fewer than ``min_cases`` cases says that alone, once.

    The foreground mean is treated as a class. Metrics of a class may rest on different numbers of cases: the smallest
    counts for all of them.
    """
    small = {s.label for s in scores if s.metric != SUPPRESSED and s.n < min_cases}
    kept: dict[tuple[str, str], Score] = {}
    for score in scores:
        out = _without(score.label, min_cases) if score.label in small else score
        kept.setdefault((out.label, out.metric), out)
    return tuple(kept.values())


def _without(label: str, min_cases: int) -> Score:
    return Score(metric=SUPPRESSED, label=label, mean=min_cases, ci_low=None, ci_high=None, n=0)
