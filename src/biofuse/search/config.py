"""What a user chooses before a search, with presets resolved."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from biofuse.core.errors import BioFuseError, SearchError, option
from biofuse.core.options import Option, Options
from biofuse.core.target import Target
from biofuse.evaluation.metrics import ACCURACY, DEFAULT_METRIC, MetricName, selectable
from biofuse.search.rules import DEFAULT_RULE, PUBLISHED_RULE, RULES, RuleName

AUTO = "auto"
"""The head that stands for a choice among :data:`biofuse.heads.base.CHEAP_HEADS`."""

CONCATENATION = "concatenation"
"""The fusion that a mean over heads uses."""

Reduce = Literal["auto", "none"]
"""Whether a screen may reduce blocks: where it would take long, or never."""

STARTER = "starter"
"""The pool that is searched where none is named."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "fusion": "concatenation",
        "scaling": "none",
        "predictor": "fused",
        "head": "xgboost",
        "search": "exhaustive",
        "select": "holdout",
        "rule": PUBLISHED_RULE,
        "metric": ACCURACY.name,
    }
}
"""``paper``: the published protocol: every subset, XGBoost with 250 trees, the best accuracy on the given validation
split, the first subset among ties (Hossain & Harris-Birtill, PLoS One 2026; settings from the authors' code)."""


def _heads() -> Sequence[str]:
    from biofuse.heads.base import head_registry

    return (AUTO, *head_registry().names())


def _fusions() -> Sequence[str]:
    from biofuse.fusion.base import fusion_registry

    return fusion_registry().names()


def _pool(value: Any) -> Any:
    """Read names in one string, separated by commas."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            "encoders are named: a string, or several; biofuse.register_torch and biofuse.register_encoder give a "
            "network or a function a name."
        )
    return tuple(name.strip() for part in names for name in part.split(",") if name.strip())


def names_one_predictor(chosen: Mapping[str, Any]) -> bool:
    """Return whether a head, or a fusion that the mean over heads does not use, is among options that were named."""
    head, fusion = chosen.get("head"), chosen.get("fusion") or CONCATENATION
    head = AUTO if head is None else head  # an ensemble of scikit-learn has no truth value before it is fitted
    return bool(head != AUTO or str(fusion).casefold() != CONCATENATION)


def _head(value: Any) -> Any:
    """Read a classifier of another library as the name that it has here."""
    from biofuse.heads.estimator import head_named_after

    return value if value is None or isinstance(value, str) else head_named_after(value)


class SearchConfig(Options):
    """Options of a search; equal options on equal data give equal results.

    Examples
    --------
    >>> from biofuse import SearchConfig
    >>> SearchConfig(encoders=["colour", "lbp"]).folds
    5
    >>> SearchConfig(preset="paper").head
    'xgboost'
    """

    _refusal: ClassVar[type[BioFuseError]] = SearchError

    encoders: Annotated[
        tuple[str, ...], BeforeValidator(_pool), Option(panel="Search", short="-e", metavar="NAMES")
    ] = Field(
        default=(STARTER,),
        description="The pool: names or aliases, separated by commas; see `biofuse encoders list`.",
        examples=["efficientnet_lite0,lbp"],
    )
    preset: Annotated[Literal["paper"] | None, Option(panel="Search")] = Field(
        default=None, description="paper: the published protocol; options given beside it win."
    )
    head: Annotated[str, BeforeValidator(_head), Option(panel="Search", names=_heads)] = Field(
        default=AUTO,
        description="The classifier; auto: the best of the cheap linear ones, by the same cross-validation. In Python "
        "also a classifier of scikit-learn's kind.",
    )
    search: Annotated[Literal["screen", "exhaustive", "greedy", "beam", "all"], Option(panel="Search")] = Field(
        default="screen",
        description="screen: score every subset in closed form, refit the best; exhaustive: refit every subset; "
        "greedy, beam: refit those on their way; all: no search, all encoders together.",
    )
    select: Annotated[Literal["cv", "holdout", "nested", "site"], Option(panel="Search")] = Field(
        default="cv",
        description="cv: cross-validation over train and validation data together; holdout: the validation split; "
        "nested: cv, and the whole search scored by outer folds; site: one site after the other left out, see `site`.",
    )
    rule: Annotated[RuleName, Option(panel="Search")] = Field(
        default=DEFAULT_RULE,
        description="Which subset is chosen from the scores. "
        + "; ".join(f"{name}: {rule.text}" for name, rule in RULES.items())
        + ".",
    )
    metric: Annotated[MetricName, BeforeValidator(selectable), Option(panel="Search")] = Field(
        default=DEFAULT_METRIC,
        description="What subsets are chosen by; other names for it will do: auc, acc. Unless named, what "
        "suits the target: auroc of classes and labels, r2 of values, harrell_c of times.",
    )
    max_encoders: Annotated[int | None, Option(panel="Search")] = Field(
        default=None, ge=1, description="Most encoders that may be chosen."
    )
    max_latency: Annotated[float | None, Option(panel="Search")] = Field(
        default=None,
        gt=0,
        description="Most milliseconds per image of the chosen encoders together, measured on this machine.",
        examples=[50],
    )
    seed: Annotated[int, Option(panel="Search")] = Field(
        default=0, ge=0, description="Of splits, folds, heads and bootstrap."
    )
    fusion: Annotated[str, Option(panel="Advanced", names=_fusions)] = Field(
        default=CONCATENATION, description="How the blocks of a subset become one matrix."
    )
    scaling: Annotated[Literal["none", "block"], Option(panel="Advanced")] = Field(
        default="none", description="none: every column counts equally; block: every encoder does."
    )
    predictor: Annotated[
        Literal["mean", "fused", "ensemble", "average", "stacking", "attention"], Option(panel="Advanced")
    ] = Field(
        default="mean",
        description="mean: the average over the cheap linear heads, each on the chosen encoders together and on every "
        "one by itself (subsets are compared by one head, as with fused); fused: one head on the fused encoders, taken "
        "where a head or another fusion is named and no predictor; ensemble: the average of the best subsets; average, "
        "stacking: late fusion, a head per encoder; attention: the images of a sample are weighed by what was learned "
        "of them, where samples are several images and have classes (subsets are compared by one head on pooled "
        "images).",
    )
    class_weight: Annotated[Literal["balanced"] | None, Option(panel="Advanced")] = Field(
        default=None, description="balanced: as in scikit-learn."
    )
    finalists: Annotated[int, Option(panel="Advanced")] = Field(
        default=16,
        ge=1,
        description="Best screened subsets that are refitted, besides single encoders, all of them, the greedy path, "
        "the best of each size, the screen's own choice and its lean subset.",
    )
    reduce: Annotated[Reduce, Option(panel="Advanced")] = Field(
        default="auto",
        description="auto: a screen of many rows reduces each encoder to 128 or 64 principal components inside the "
        "folds; none: it never does, whatever it costs, which it says first.",
    )
    folds: Annotated[int, Option(panel="Advanced")] = Field(default=5, ge=2, description="Of the cross-validation.")
    repeats: Annotated[int, Option(panel="Advanced")] = Field(default=2, ge=1, description="Of the cross-validation.")
    commercial_only: Annotated[bool, Option(panel="Advanced")] = Field(
        default=False,
        description="Leave out encoders whose licence forbids commercial use, or does not say.",
    )

    @property
    def cross_validates(self) -> bool:
        """Whether subsets are scored by folds of train and validation data together."""
        return self.select != "holdout"

    def with_head(self, head: str) -> Self:
        """Return the same with a head that has been chosen."""
        return self.model_copy(update={"head": head})

    def compared(self, head: str, target: Target) -> str:
        """Say which head compared subsets, and what the models are, where that is something else; else nothing."""
        from biofuse.predictors.mean import averaged_heads

        if self.predictor == "attention":
            return (
                f"Subsets were compared by one {head} head on pooled images; every model weighs the images of a sample "
                "by attention."
            )
        if self.predictor != "mean":
            return ""
        over = "all heads that are cheap to fit" if len(averaged_heads(target)) > 1 else "fits of that head"
        return (
            f"Subsets were compared by one {head} head; every model is the mean over {over}, on its encoders together "
            "and on each by itself."
        )

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, chosen: Any) -> Any:
        """Put what the user chose before the preset, and that before the defaults; None means "not chosen"."""
        picked = {name: value for name, value in chosen.items() if value is not None}
        picked = {**PRESETS.get(str(picked.get("preset")), {}), **picked}
        if picked.get("select") == "holdout":
            picked.setdefault("rule", PUBLISHED_RULE)  # one validation split has no standard error to be within
        if names_one_predictor(picked):
            picked.setdefault("predictor", "fused")
        return picked

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.select == "holdout" and RULES[self.rule].needs_folds:
            raise SearchError(
                f"The rule {self.rule} needs cross-validation: one validation split has no standard error.",
                remedy=f"Use {option('select', 'cv')}, or {option('rule', 'best')}.",
            )
        if self.search == "all" and (self.max_encoders or len(self.encoders)) < len(self.encoders):
            raise SearchError(
                f"Search 'all' fuses {len(self.encoders)} encoders; at most {self.max_encoders} are allowed.",
                remedy=f"Use {option('search', 'screen')}, offer fewer encoders, or leave {option('max_encoders')} "
                "out.",
            )
        if self.predictor == "mean":
            self._check_mean()
        if self.predictor == "ensemble" and self.search == "all":
            raise SearchError(
                "An ensemble averages several subsets, but search 'all' scores one.",
                remedy=f"Use {option('search', 'screen')}, or {option('predictor', 'fused')}.",
            )
        return self

    def _check_mean(self) -> None:
        from biofuse.heads.base import LINEAR_HEADS

        if self.head not in (AUTO, *LINEAR_HEADS):
            raise SearchError(
                f"The predictor 'mean' averages the linear heads {', '.join(LINEAR_HEADS)}, and not {self.head}.",
                remedy=f"Use {option('predictor', 'fused')}, or {option('head', AUTO)}.",
            )
        if self.fusion.casefold() != CONCATENATION:
            raise SearchError(
                f"The predictor 'mean' concatenates encoders; the fusion {self.fusion} would not be used.",
                remedy=f"Use {option('predictor', 'fused')}, or {option('fusion', CONCATENATION)}.",
            )
