"""What a user chooses before a search, with presets resolved."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from biofuse.core.errors import SearchError
from biofuse.evaluation.metrics import ACCURACY, DEFAULT_METRIC, MetricName
from biofuse.search.rules import DEFAULT_RULE, PUBLISHED_RULE, RULES, RuleName

Preset = Literal["paper"]

AUTO = "auto"
"""The head that stands for a choice among :data:`biofuse.heads.registry.CHEAP_HEADS`."""

PAPER: dict[str, Any] = {
    "fusion": "concatenation",
    "scaling": "none",
    "predictor": "fused",
    "head": "xgboost",
    "search": "exhaustive",
    "select": "holdout",
    "rule": PUBLISHED_RULE,
    "metric": ACCURACY.name,
}
"""The published protocol: every subset, XGBoost with 250 trees, the best accuracy on the given validation split, the
first subset among ties (Hossain & Harris-Birtill, PLoS One 2026; settings from the authors' code)."""


class Config(BaseModel):
    """Options of a search; equal options on equal data give equal results.

    Attributes
    ----------
    encoders : tuple of str
        Names or aliases of the pool.
    fusion : str
        How blocks become one matrix.
    scaling : {"none", "block"}
        ``none``: every column counts equally; ``block``: every encoder counts equally.
    predictor : {"fused", "ensemble", "average", "stacking"}
        ``fused``: one head on the fused blocks of the chosen subset. ``ensemble``: the average of the best 1, 2, 4 or 8
        of these. ``average``, ``stacking``: late fusion, a head per encoder, whose probabilities are averaged or
        stacked.
    head : str
        The classifier; ``auto`` chooses among the cheap ones by the same cross-validation.
    class_weight : {"balanced"} or None
        As in scikit-learn.
    search : {"screen", "exhaustive", "greedy", "beam", "all"}
        ``screen``: score every subset in closed form and refit the finalists with the head. ``exhaustive``: refit the
        head on every subset. ``greedy``, ``beam``: refit it on the subsets on their way. ``all``: no search.
    finalists : int
        How many of the best screened subsets are refitted, besides every encoder by itself, all of them, the greedy
        path, the best of each size and the choice that the screen alone would make.
    select : {"cv", "holdout", "nested"}
        Cross-validation over train and validation data together, the given validation split alone, or cross-validation
        with the whole search repeated inside outer folds, which scores the search itself.
    rule : str
        Which subset is chosen from the scores: one of :data:`biofuse.search.rules.RULES`.
    metric : str
        What subsets are chosen by: one of :data:`biofuse.evaluation.metrics.SELECTABLE`.
    folds, repeats : int
        Of the cross-validation.
    max_encoders : int or None
        Most encoders in the chosen subset.
    max_latency : float or None
        Most milliseconds per image that the chosen encoders may take together, measured on this machine.
    commercial_only : bool
        Whether encoders whose licence forbids commercial use, or does not say, are left out of the pool.
    seed : int
        Of splits, folds, heads and bootstrap.
    preset : {"paper"} or None
        What the other options were taken from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoders: tuple[str, ...] = ("starter",)
    fusion: str = "concatenation"
    scaling: Literal["none", "block"] = "none"
    predictor: Literal["fused", "ensemble", "average", "stacking"] = "fused"
    head: str = AUTO
    class_weight: Literal["balanced"] | None = None
    search: Literal["screen", "exhaustive", "greedy", "beam", "all"] = "screen"
    finalists: int = Field(default=16, ge=1)
    select: Literal["cv", "holdout", "nested"] = "cv"
    rule: RuleName = DEFAULT_RULE
    metric: MetricName = DEFAULT_METRIC
    folds: int = Field(default=5, ge=2)
    repeats: int = Field(default=2, ge=1)
    max_encoders: int | None = Field(default=None, ge=1)
    max_latency: float | None = Field(default=None, gt=0)
    commercial_only: bool = False
    seed: int = Field(default=0, ge=0)
    preset: Preset | None = None

    @property
    def cross_validates(self) -> bool:
        """Whether subsets are scored by folds of train and validation data together."""
        return self.select != "holdout"

    def with_head(self, head: str) -> Self:
        """Return the same with a head that has been chosen."""
        return self.model_copy(update={"head": head})

    @classmethod
    def resolve(cls, *, preset: Preset | None = None, **chosen: Any) -> Self:
        """Combine what the user chose, the preset, and the defaults, in this order of precedence.

        Parameters
        ----------
        preset : {"paper"}, optional
        **chosen
            Fields of this class; None means "not chosen".

        Raises
        ------
        SearchError
            If a value is not one of those allowed, or two do not go together.
        """
        if preset not in (None, "paper"):
            raise SearchError(f"There is no preset {preset!r}.", remedy="The only one is 'paper'.")
        picked = {name: value for name, value in chosen.items() if value is not None}
        base = PAPER if preset == "paper" else {}
        if "select" in picked and picked["select"] == "holdout" and "rule" not in {**base, **picked}:
            picked["rule"] = PUBLISHED_RULE  # one validation split has no standard error to be within
        try:
            config = cls.model_validate({**base, **picked, "preset": preset})
        except ValidationError as error:
            raise SearchError("\n".join(_explain(detail) for detail in error.errors())) from error
        if config.select == "holdout" and RULES[config.rule].needs_folds:
            raise SearchError(
                f"The rule {config.rule} needs cross-validation: one validation split has no standard error.",
                remedy="Use --select cv, or --rule best.",
            )
        if config.search == "all" and (config.max_encoders or len(config.encoders)) < len(config.encoders):
            raise SearchError(
                f"Search 'all' fuses {len(config.encoders)} encoders; at most {config.max_encoders} are allowed.",
                remedy="Use --search screen, offer fewer encoders, or leave --max-encoders out.",
            )
        if config.predictor == "ensemble" and config.search == "all":
            raise SearchError(
                "An ensemble averages several subsets, but search 'all' scores one.",
                remedy="Use --search screen, or --predictor fused.",
            )
        return config


def _explain(detail: Any) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    return f"{field} = {detail['input']!r}: {detail['msg']}."
