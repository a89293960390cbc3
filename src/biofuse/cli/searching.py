"""Options of a search, which ``fit`` and ``benchmark`` share."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import typer

from biofuse.evaluation.metrics import DEFAULT_METRIC, MetricName
from biofuse.search.rules import DEFAULT_RULE, RULES, RuleName

PANEL = "Search"


def _known_head(name: str | None) -> str | None:
    from biofuse.heads.registry import head_registry

    return _known(name, lambda: ("auto", *head_registry().names()))


def _known_fusion(name: str | None) -> str | None:
    from biofuse.fusion.registry import fusion_registry

    return _known(name, lambda: fusion_registry().names())


def _known(name: str | None, names: Callable[[], Sequence[str]]) -> str | None:
    # Other packages may bring heads and fusions, so this cannot be a fixed list of choices.
    if name is not None and name not in names():
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, names()))}.")
    return name


PresetName = Annotated[
    Literal["paper"] | None, typer.Option(help="paper: the published protocol.", rich_help_panel=PANEL)
]
Head = Annotated[
    str | None,
    typer.Option(
        help="logistic, ridge, lda, knn, xgboost, lightgbm, or auto: the best of the first three.",
        callback=_known_head,
        show_default="auto",
        rich_help_panel=PANEL,
    ),
]
Predictor = Annotated[
    Literal["fused", "ensemble", "average", "stacking"] | None,
    typer.Option(
        help="fused: one head on the fused encoders; ensemble: the average of the best subsets; average, stacking: "
        "a head per encoder.",
        show_default="fused",
        rich_help_panel=PANEL,
    ),
]
Fusion = Annotated[
    str | None,
    typer.Option(
        help="concatenation, pca, whitening, weighted, mean.",
        callback=_known_fusion,
        show_default="concatenation",
        rich_help_panel=PANEL,
    ),
]
Search = Annotated[
    Literal["screen", "exhaustive", "greedy", "beam", "all"] | None,
    typer.Option(
        help="screen: score every subset in closed form, refit the best; exhaustive: refit every subset; greedy, "
        "beam: refit some; all: no search, all encoders together.",
        show_default="screen",
        rich_help_panel=PANEL,
    ),
]
Finalists = Annotated[
    int | None,
    typer.Option(min=1, help="Best screened subsets that are refitted.", show_default="16", rich_help_panel=PANEL),
]
Select = Annotated[
    Literal["cv", "holdout", "nested"] | None,
    typer.Option(
        help="cv: cross-validation; holdout: the validation split; nested: cv, and the whole search scored by "
        "outer folds.",
        show_default="cv",
        rich_help_panel=PANEL,
    ),
]
Rule = Annotated[
    RuleName | None,
    typer.Option(
        help="; ".join(f"{name}: {rule.text}" for name, rule in RULES.items()) + ".",
        show_default=DEFAULT_RULE,
        rich_help_panel=PANEL,
    ),
]
Metric = Annotated[
    MetricName | None,
    typer.Option(
        help="What subsets are chosen by.",
        show_default=DEFAULT_METRIC,
        rich_help_panel=PANEL,
    ),
]
Scaling = Annotated[
    Literal["none", "block"] | None,
    typer.Option(help="none: columns count equally; block: encoders do.", show_default="none", rich_help_panel=PANEL),
]
ClassWeight = Annotated[
    Literal["balanced"] | None,
    typer.Option(help="balanced: as in scikit-learn.", rich_help_panel=PANEL),
]
Folds = Annotated[
    int | None,
    typer.Option(min=2, help="Of the cross-validation.", show_default="5", rich_help_panel=PANEL),
]
Repeats = Annotated[
    int | None,
    typer.Option(min=1, help="Of the cross-validation.", show_default="2", rich_help_panel=PANEL),
]
MaxEncoders = Annotated[
    int | None, typer.Option(min=1, help="Most encoders that may be chosen.", rich_help_panel=PANEL)
]
MaxLatency = Annotated[
    float | None,
    typer.Option(help="Most milliseconds per image of the chosen encoders, measured here.", rich_help_panel=PANEL),
]
CommercialOnly = Annotated[
    bool,
    typer.Option(
        "--commercial-only",
        help="Leave out encoders without a licence for commercial use.",
        rich_help_panel=PANEL,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of splits, folds and heads.", rich_help_panel=PANEL)]
