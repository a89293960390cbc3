"""The card of a model: its licence, what its encoders may have seen before, and all else that a user must know."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from biofuse.core.target import TEXTS, Target, Task
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.hub import is_repository
from biofuse.evaluation.calibration import CalibrationTest
from biofuse.evaluation.conformal import SetsTest
from biofuse.evaluation.intervals import named_together
from biofuse.evaluation.metrics import INTERVAL_METRICS, METRICS
from biofuse.model.versions import UNVERSIONED, fitted_with
from biofuse.search.config import SearchConfig


def seen_before(cards: Sequence[EncoderCard], names: Iterable[str]) -> list[tuple[EncoderCard, str]]:
    """Return the encoders whose cards say that they may have seen a data set, each with the reason.

    Parameters
    ----------
    cards : sequence of EncoderCard
    names : iterable of str
        What the data set is called: its name, its path. Upper and lower case, dashes and the like do not matter, and
        ``chestmnist`` is found in ``chestmnist_224``.
    """
    given = [_letters(name) for name in names]
    return [
        (card, why)
        for card in cards
        for data, why in card.overlaps.items()
        if any(_letters(data) in words for words in given)
    ]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


CHAIN = (
    "CC0-1.0", "BSD-3-Clause", "MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0",
)  # fmt: skip
"""SPDX identifiers, each allowing no more than those before it; the rest compares with none of them."""

OTHER = "other"
"""What the Hugging Face hub calls a licence that is none of its list, or several."""


SHARE_ALIKE = ("-SA", "GPL")
"""What SPDX identifiers of licences have in them that ask for the same licence again."""

NO_DERIVATIVES = "-ND"
"""What those have that forbid handing on changed works."""


@dataclass(frozen=True, kw_only=True)
class CombinedLicence:
    """The licence of a model of several encoders, as far as it follows from theirs.

    Attributes
    ----------
    identifier : str
        As the Hugging Face hub writes it; ``other`` where the licences do not combine to one of them.
    name : str
        The licences in words, where that is ``other``.
    commercial : bool or None
        Whether commercial use is allowed: by all (True), not by all (False), or not known (None).
    """

    identifier: str
    name: str
    commercial: bool | None


def combine_licences(cards: Sequence[EncoderCard]) -> CombinedLicence:
    """Return the most restrictive of the encoders' licences, where they can be put in order.

    Parameters
    ----------
    cards : sequence of EncoderCard
        At least one.
    """
    names = tuple(dict.fromkeys(card.licence for card in cards))
    commercial: bool | None = True
    if any(card.commercial is False for card in cards):
        commercial = False
    elif any(card.commercial is None for card in cards):
        commercial = None
    if all(name in CHAIN for name in names):
        strictest = max(names, key=CHAIN.index)
        return CombinedLicence(identifier=strictest.lower(), name=strictest, commercial=commercial)
    if len(names) == 1 and names[0].startswith("CC-"):
        return CombinedLicence(identifier=names[0].lower(), name=names[0], commercial=commercial)
    return CombinedLicence(identifier=OTHER, name=" and ".join(sorted(names)), commercial=commercial)


def licence_sentences(cards: Sequence[EncoderCard], unknown: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Say what the licences of the encoders mean for the model that combines them.

    Parameters
    ----------
    cards : sequence of EncoderCard
    unknown : sequence of str
        Encoders of the model whose cards are not at hand.

    Returns
    -------
    sentences, warnings : list of str
        What there is to know, and what to beware of.
    """
    said, warnings = [], []
    forbidden = [card for card in cards if card.commercial is False]
    unclear = [card.name for card in cards if card.commercial is None] + list(unknown)
    if forbidden:
        warnings.append(
            f"The combined model must not be used commercially: the licence of {_each(forbidden)} forbids it."
        )
    if unclear:
        warnings.append(
            f"Whether the combined model may be used commercially is not known: {', '.join(unclear)} "
            f"{'does' if len(unclear) == 1 else 'do'} not say."
        )
    if not forbidden and not unclear:
        licences = ", ".join(dict.fromkeys(card.licence for card in cards))
        said.append(f"Every encoder's licence allows commercial use ({licences}).")
    gated = [card.name for card in cards if card.gated]
    if gated:
        said.append(f"Whoever runs the model has to ask for access to {', '.join(gated)} first.")
    alike = [card for card in cards if any(mark in card.licence.upper() for mark in SHARE_ALIKE)]
    if alike:
        warnings.append(f"{_each(alike)} may ask that what is derived is handed on under the same licence.")
    fixed = [card for card in cards if NO_DERIVATIVES in card.licence.upper()]
    if fixed:
        warnings.append(f"{_each(fixed)} forbids handing on changed weights, such as fine-tuned ones.")
    said.append(
        "The model holds a predictor and refers to its encoders; their weights are not part of it and keep their own "
        "terms, all of which hold for whoever uses the combination. This is a summary of what the cards say, not legal "
        "advice."
    )
    return said, warnings


def _each(cards: Sequence[EncoderCard]) -> str:
    return " and ".join(f"{card.name} ({card.licence})" for card in cards)


HUB_METRICS = {name: metric.hub for name, metric in METRICS.items() if metric.hub is not None}
"""The hub's names of the metrics that it knows."""

MODELS = {
    "chosen": "**chosen**",
    "best_single": "best single encoder",
    "all": "all encoders",
    "greedy": "greedy path",
    "lean": "lean subset",
}

UNKNOWN = "not recorded"

TOLD = ("operating", "values", "risks")
"""Parts of test scores whose own sentences the card repeats."""


class DescribedModel(Protocol):
    """What the card needs to know of a model; :class:`~biofuse.model.model.BioFuseModel` has it."""

    @property
    def cards(self) -> tuple[EncoderCard, ...]:
        """The encoders, in pool order."""
        ...

    @property
    def task(self) -> Task:
        """Kind of task."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class (or label) names."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """JSON facts about the fit."""
        ...


def model_card(
    model: DescribedModel,
    *,
    run: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    repository: str = "OWNER/NAME",
) -> str:
    """Write the card of a model.

    Parameters
    ----------
    model : BioFuseModel
        Or anything else with these four attributes.
    run : mapping, optional
        The content of ``run.json``: data, how the encoders were chosen, versions.
    metrics : mapping, optional
        The content of ``metrics.json``: test scores.
    repository : str
        Where the model lies on the hub, for the example.

    Returns
    -------
    str
        Markdown after YAML front matter. No path of the machine on which the model was made is in it.
    """
    data = str(model.facts.get("data") or UNKNOWN)
    parts = [
        f"---\n{_front_matter(model, data, metrics)}\n---",
        f"# BioFuse model for {_plain(data)}",
        _summary(model, data),
        f"## How to use it\n\n{_example(repository)}",
        f"## Intended use\n\n{_intended(model)}",
        f"## Task and data\n\n{_data(model, data, run)}",
        f"## Encoders\n\n{_encoders(model.cards)}",
        f"## How it was chosen\n\n{_choice(model, run)}",
        f"## Test scores\n\n{_scores(metrics)}",
        f"## Limits\n\n{_limits(model, data, metrics)}",
        f"## Licence\n\n{_licence(model.cards)}",
        f"## Provenance\n\n{_provenance(model, run)}",
        f"## Citation\n\n{_citations(model.cards)}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(model: DescribedModel, data: str, metrics: Mapping[str, Any] | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    licence, target = combine_licences(model.cards), Target(model.task, model.classes)
    categorical = target.categorical
    chosen = (metrics or {}).get("models", {}).get("chosen", {}).get("metrics", {})
    results = [
        EvalResult(
            task_type="image-classification" if categorical else "other",
            task_name="Image classification" if categorical else TEXTS[model.task].capitalize(),
            dataset_type=_slug(data),
            dataset_name=data,
            dataset_split=str((metrics or {}).get("split", "test")),
            metric_type=theirs,
            metric_name=METRICS[name].title,
            metric_value=chosen[name],
        )
        for name, theirs in HUB_METRICS.items()
        if chosen.get(name) is not None
    ]
    repositories = [card.weights.repository for card in model.cards if card.weights is not None]
    front = ModelCardData(
        license=licence.identifier,
        license_name=_slug(licence.name) if licence.identifier == OTHER else None,
        library_name="biofuse",
        pipeline_tag="image-classification" if categorical else None,
        tags=["biofuse", "biomedical-imaging", "embedding-fusion", "frozen-encoders", str(model.task)],
        metrics=[theirs for name, theirs in HUB_METRICS.items() if METRICS[name].applies(target)],
        base_model=[name for name in repositories if is_repository(name)] or None,
        model_name=f"BioFuse model for {data}",
        eval_results=results or None,
    )
    return str(front.to_yaml()).strip()


def _summary(model: DescribedModel, data: str) -> str:
    names = ", ".join(card.title for card in model.cards)
    target = Target(model.task, model.classes)
    what = f"A classifier of {target.counted} ({model.task})"
    if not target.categorical:
        what = f"A predictor of {target.text} ({', '.join(map(_plain, model.classes))})"
    return (
        f"{what} on the embeddings of {len(model.cards)} frozen encoder{'s' if len(model.cards) > 1 else ''} "
        f"({names}), fitted on {_plain(data)} with BioFuse {fitted_with(model.facts, otherwise=UNVERSIONED)}. This "
        "repository holds the fitted part alone; the weights of the encoders come from their own authors, under their "
        "own licences."
    )


def _example(repository: str) -> str:
    return (
        "```python\n"
        "from biofuse import BioFuseModel\n\n"
        f'model = BioFuseModel.from_pretrained("{repository}")\n'
        'print(model.predict(["image.png"]))\n'
        "```"
    )


def _intended(model: DescribedModel) -> str:
    odd = f"that is none of the {len(model.classes)} classes" if model.task.categorical else "unlike them"
    return (
        "Research on images like those it was fitted on. **Not for clinical use**: it is no medical device, it was not "
        "validated on any patient's behalf, and no decision about a person may rest on it. Images of other scanners, "
        f"stains, sites or populations, and anything {odd}, get a confident answer too."
    )


def _data(model: DescribedModel, data: str, run: Mapping[str, Any] | None) -> str:
    lines = [f"- Data set: {_plain(data)}", f"- Task: {model.task}", f"- Fitted on: {model.facts.get('fitted_on')}"]
    lines.append(f"- Samples fitted on: {model.facts.get('n_samples', UNKNOWN)}")
    positive = Target(model.task, model.classes).positive
    lines += [] if positive is None else [f"- Positive class: {_plain(positive)}"]
    counts = (run or {}).get("counts") or {}
    noun = Target(model.task, model.classes).noun
    if not counts:
        return "\n".join([*lines, f"- {noun.capitalize()}: {', '.join(map(_plain, model.classes))}"])
    splits = list(counts)
    names = dict.fromkeys(name for split in splits for name in (model.classes if noun != "horizons" else counts[split]))
    rows = [(name, *(counts[split].get(name, 0) for split in splits)) for name in names]
    what = "class" if model.task.categorical else "samples with"
    return "\n".join(lines) + "\n\n" + _markdown_table((what, *splits), rows)


def _encoders(cards: Sequence[EncoderCard]) -> str:
    rows = []
    for card in cards:
        weights = card.weights
        where = "computed, no weights" if weights is None else weights.repository
        revision = "" if weights is None else weights.revision
        use = {True: "yes", False: "no", None: "unknown"}[card.commercial]
        rows.append((card.title, card.modality, card.licence, use, where, revision, card.dim))
    columns = ("encoder", "trained on", "licence", "commercial use", "weights", "revision", "columns")
    return _markdown_table(columns, rows)


def _choice(model: DescribedModel, run: Mapping[str, Any] | None) -> str:
    said = [str(model.facts.get("selection") or UNKNOWN)]
    if run is not None:
        pool = [encoder["card"]["name"] for encoder in run["encoders"]]
        said.append(f"The pool had {len(pool)} encoders: {', '.join(pool)}.")
        said.append(
            SearchConfig(**run["options"]).compared(run["head"], Target(model.task, model.classes))
            or f"Head: {run['head']}."
        )
    said.append("The choice was made on development data; test data were not read for it.")
    return "\n\n".join(map(_plain, said))


def _scores(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "Not evaluated on test data."
    rows = []
    models = metrics["models"]
    shown = [name for name in INTERVAL_METRICS if name in next(iter(models.values()))["metrics"]]
    for name, called in named_together({name: entry.get("same", ()) for name, entry in models.items()}).items():
        title, entry = " = ".join(MODELS.get(each, each) for each in called), models[name]
        rows.append((title, " + ".join(entry["encoders"]), *(_score(entry, metric) for metric in shown)))
    table = _markdown_table(("model", "encoders", *(METRICS[name].title for name in shown)), rows)
    said = dict.fromkeys(comparison["sentence"] for comparison in metrics["comparisons"].values())
    calibration, sets = metrics.get("calibration"), metrics.get("sets", ())
    trusted = [] if calibration is None else [str(CalibrationTest.model_validate(calibration))]
    trusted += [str(SetsTest.model_validate(each)) for each in sets[:1]]
    trusted += [each for part in TOLD for each in (metrics.get(part) or {}).get("sentences", ())]
    sentences = map(_plain, (*said, *trusted))
    return "\n\n".join(
        [f"{metrics['n']} samples of split {metrics.get('split', 'test')}; 95 % intervals.", table, *sentences]
    )


def _score(entry: Mapping[str, Any], metric: str) -> str:
    value = entry["metrics"].get(metric)
    if value is None:
        return "undefined"
    interval = entry["intervals"].get(metric, {})
    low, high = interval.get("low"), interval.get("high")
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f} to {high:.4f})"


def _limits(model: DescribedModel, data: str, metrics: Mapping[str, Any] | None) -> str:
    said = ["The scores are of data from the same source as those it was fitted on; elsewhere they will be lower."]
    if metrics is None:
        said = ["It was not evaluated on test data: how well it does is not known."]
    else:
        leak = metrics["leak"]
        if leak["samples"]:
            said.append(f"{leak['samples']} of the {metrics['n']} test images are also among the development data.")
        if leak["groups"]:
            said.append(f"{leak['groups']} groups (such as patients) are in both development and test data.")
        said += [each["sentence"] for each in metrics.get("subgroups", ())]
        if metrics["quarantined"]:
            said.append(f"{metrics['quarantined']} test images could not be read and are not scored.")
        for what, words in (("undefined", "is undefined"), ("partial", "is a mean over the other classes")):
            reasons = metrics["models"]["chosen"].get(what, {})
            said += [
                f"{METRICS[name].title if name in METRICS else name} {words}: {reason}"
                for name, reason in reasons.items()
            ]
    said += [
        f"{card.title} may have been trained on these images ({why}), so its scores here are optimistic."
        for card, why in seen_before(model.cards, [data])
    ]
    said += [
        f"Of {card.title}, no external source confirms: {', '.join(card.unverified)}."
        for card in model.cards
        if card.unverified
    ]
    said.append(
        "Prediction intervals were not checked on data from elsewhere."
        if model.task.measured
        else "Probabilities were not checked for calibration on data from elsewhere."
    )
    return "\n".join(f"- {_plain(sentence)}" for sentence in said)


def _licence(cards: Sequence[EncoderCard]) -> str:
    licence = combine_licences(cards)
    each = ", ".join(f"{card.title}: {card.licence}" for card in cards)
    what = f"The strictest of them is {licence.name}." if licence.identifier != OTHER else "They are not of one kind."
    said, warnings = licence_sentences(cards)
    return "\n\n".join(
        [
            f"The model needs every one of its encoders, so the terms of all apply: {_plain(each)}. {what}",
            *(f"**{_plain(warning)}**" for warning in warnings),
            _plain(" ".join([*said, "The data it was fitted on have terms of their own."])),
        ]
    )


def _provenance(model: DescribedModel, run: Mapping[str, Any] | None) -> str:
    lines = [f"- BioFuse {fitted_with(model.facts, otherwise=UNKNOWN)}"]
    if run is not None:
        libraries = ", ".join(
            f"{name} {version}" for name, version in run["environment"]["libraries"].items() if version
        )
        lines += [
            f"- Made: {run['started']}",
            f"- Key of the run: {run['key']}",
            f"- Seed: {run['options']['seed']}",
            f"- Python {run['environment']['python']}; {libraries}",
        ]
    lines += [f"- {card.name}: {card.fingerprint()}" for card in model.cards]
    return "\n".join(lines)


def _citations(cards: Sequence[EncoderCard]) -> str:
    biofuse = (
        "Hossain MN, Harris-Birtill D (2026). BioFuse: an embedding fusion framework for biomedical foundation models. "
        "PLoS One 21(3): e0320989."
    )
    found = dict.fromkeys([biofuse, *(card.citation for card in cards if card.citation)])
    return "\n".join(f"- {_plain(each)}" for each in found)


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return _plain(str(value)).replace("|", "\\|")


def _plain(text: str) -> str:
    """Keep text from user data on one line and free of markup."""
    return " ".join(text.replace("<", "&lt;").split())


def _slug(text: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in ".-_" else "-" for letter in text.lower())
    return "-".join(part for part in kept.split("-") if part) or "unnamed"
