"""What a user chooses before a search, with presets resolved."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from biofuse.core.errors import SearchError

Preset = Literal["paper"]

PAPER: dict[str, Any] = {
    "fusion": "concatenation",
    "scaling": "none",
    "head": "xgboost",
    "search": "exhaustive",
    "select": "holdout",
    "rule": "first_best",
    "metric": "accuracy",
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
    head : str
        The classifier.
    class_weight : {"balanced"} or None
        As in scikit-learn.
    search : {"exhaustive", "all"}
        Score every subset, or only all encoders together.
    select : {"cv", "holdout"}
        Cross-validation over train and validation data together, or the given validation split alone.
    rule : {"one_se", "best", "first_best"}
        Which subset is chosen from the scores.
    metric : {"auroc", "accuracy"}
        What subsets are chosen by.
    folds, repeats : int
        Of the cross-validation.
    seed : int
        Of splits, folds, heads and bootstrap.
    preset : {"paper"} or None
        What the other options were taken from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoders: tuple[str, ...] = ("starter",)
    fusion: str = "concatenation"
    scaling: Literal["none", "block"] = "none"
    head: str = "logistic"
    class_weight: Literal["balanced"] | None = None
    search: Literal["exhaustive", "all"] = "exhaustive"
    select: Literal["cv", "holdout"] = "cv"
    rule: Literal["one_se", "best", "first_best"] = "one_se"
    metric: Literal["auroc", "accuracy"] = "auroc"
    folds: int = Field(default=5, ge=2)
    repeats: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)
    preset: Preset | None = None

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
            picked["rule"] = "first_best"  # one validation split has no standard error to be within
        try:
            config = cls.model_validate({**base, **picked, "preset": preset})
        except ValidationError as error:
            raise SearchError("\n".join(_explain(detail) for detail in error.errors())) from error
        if config.select == "holdout" and config.rule == "one_se":
            raise SearchError(
                "The rule one_se needs cross-validation: one validation split has no standard error.",
                remedy="Use --select cv, or --rule best.",
            )
        return config


def _explain(detail: Any) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    return f"{field} = {detail['input']!r}: {detail['msg']}."
