"""What is written into ``run.json`` is read back as it was, whatever it is."""

import json

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biofuse.core.target import Task
from biofuse.data.decoding import DecodePolicy
from biofuse.encoders.doctor import Skipped
from biofuse.encoders.registry import get_card
from biofuse.runs.record import DataSource, Environment, Folds, RunRecord, UsedEncoder
from biofuse.runs.run import Run, read_record
from biofuse.search.attribution import Attribution, CrossModal, Gain, Line
from biofuse.search.config import SearchConfig
from biofuse.search.evidence import Evidence, Nested, Optimism
from biofuse.search.leaderboard import Row
from biofuse.search.rules import RULES, Ensemble, Selection
from biofuse.search.screen import ReductionLoss, ScreenPlan

NAMES = ("hog", "lbp", "timm:resnet18", "função")
METRICS = ("auroc", "accuracy")

number = st.floats(allow_nan=False, allow_infinity=False)
score = number | st.just(float("nan"))  # an undefined one
words = st.text(max_size=12)
count = st.integers(0, 2**40)
subset = st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple)
metric = st.sampled_from(METRICS)
notes = st.lists(words, max_size=2).map(tuple)
folds = st.lists(score, min_size=1, max_size=3).map(tuple)


def maybe(strategy):
    return st.none() | strategy


def several(strategy):
    """Four: one for each encoder."""
    return st.tuples(*[strategy] * 4)


row = st.builds(
    Row, subset=subset, n_dims=count, folds=st.dictionaries(metric, folds, min_size=1), seconds=number, notes=notes
)
gain = st.builds(
    Gain, metric=metric, subset=subset, against=subset, gain=score, low=score, high=score, confidence=number,
    p_value=score, p_holm=score,
)  # fmt: skip
line = st.builds(
    Line, kind=st.sampled_from(("encoder", "modality")), name=words, modality=words, encoders=subset, best=words,
    score=score, alone=gain, added=maybe(gain),
)  # fmt: skip
lines = st.lists(line, max_size=2).map(tuple)
each, pairs = several(score), several(several(score))
attribution = st.builds(
    Attribution, metric=metric, encoders=st.just(NAMES), empty=score, full=score, shapley=each, low=each, high=each,
    marginal=each, added_last=each, alone=each, interaction=pairs, interaction_low=pairs, interaction_high=pairs,
    confidence=number, n_folds=count,
)  # fmt: skip
evidence = st.builds(
    Evidence,
    optimism=maybe(
        st.builds(
            Optimism, metric=metric, rule=words, chosen=subset, apparent=score, corrected=score, low=score,
            high=score, confidence=number, n_subsets=count, n_resamples=count, n_undefined=count,
            unit=st.sampled_from(("samples", "groups")), n_units=count, picked=st.dictionaries(subset, number),
        )
    ),
    screened=st.booleans(),
    attribution=maybe(attribution),
    modality=maybe(
        st.builds(
            CrossModal, metric=metric, baseline=words, baseline_modality=words, baseline_score=score,
            modalities=lines, encoders=lines,
        )
    ),
    nested=maybe(
        st.builds(
            Nested, metric=metric, folds=st.dictionaries(words, folds), picked=st.lists(subset, max_size=2).map(tuple),
            low=score, high=score,
        )
    ),
)  # fmt: skip
selection = st.builds(
    Selection, rule=st.sampled_from(sorted(RULES)), metric=metric, chosen=row, best=row, best_single=maybe(row),
    all=maybe(row), greedy=maybe(row), within=st.lists(subset, max_size=2).map(tuple),
    better_than_chance=maybe(st.booleans()), reason=words, notes=notes,
)  # fmt: skip
source = st.builds(
    DataSource, source=maybe(words), kind=maybe(words),
    label=maybe(words | notes), group=maybe(words), task=maybe(words),
    val=maybe(st.builds(DataSource, source=maybe(words))),
)  # fmt: skip
encoder = st.builds(
    UsedEncoder,
    card=st.sampled_from([get_card("hog"), get_card("lbp")]),
    precision=st.sampled_from(("fp32", "fp16", "bf16")),
    fingerprint=words,
)
records = st.builds(
    RunRecord,
    version=words,
    key=words,
    state=st.sampled_from(("searching", "complete")),
    started=words,
    seconds=st.dictionaries(words, number),
    name=words,
    data=source,
    decode=st.builds(DecodePolicy, page=st.integers(0, 9)),
    task=st.sampled_from(Task),
    classes=notes,
    counts=st.dictionaries(words, st.dictionaries(words, count)),
    encoders=st.lists(encoder, max_size=2).map(tuple),
    latency=st.dictionaries(words, number),
    skipped=st.lists(st.builds(Skipped, name=words, reason=words, remedy=words), max_size=1).map(tuple),
    options=st.builds(SearchConfig, seed=st.integers(0, 9), max_latency=maybe(st.floats(0.1, 9))),
    plan=st.builds(
        Folds, kind=st.sampled_from(("cv", "holdout")), folds=count, repeats=count, key=words, notes=notes
    ),
    fitted_on=words,
    environment=st.just(Environment.here()),
    head=words,
    heads=st.dictionaries(words, score),
    selection=maybe(selection),
    ensemble=maybe(
        st.builds(
            Ensemble, metric=metric, members=st.lists(subset, min_size=1, max_size=2).map(tuple), encoders=subset,
            scores=st.dictionaries(st.sampled_from((1, 2, 4, 8)), folds),
        )
    ),
    singles=notes,
    screen=maybe(
        st.builds(
            ScreenPlan, mode=st.sampled_from(("dual", "primal")), reduce_to=maybe(count), n_subsets=count, memory=count
        )
    ),
    reduction=maybe(
        st.builds(
            ReductionLoss, reduce_to=count, metric=metric, differences=st.dictionaries(subset, number), n_rows=count
        )
    ),
    evidence=evidence,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(records)
def test_a_record_is_read_as_it_was_written(tmp_path, record):
    run = Run(path=tmp_path, record=record.model_copy(update={"latency": {"before": 0.5}}))
    run.remember(latency=record.latency)
    found = read_record(tmp_path)
    assert found == record
    assert found.model_dump_json() == record.model_dump_json()


@given(records)
def test_the_file_is_json_that_every_reader_knows(record):
    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(record.model_dump_json(), parse_constant=refuse)
    assert content["key"] == record.key


@given(records, selection)
def test_undefined_scores_are_null_in_the_file(record, selection):
    undefined = Row(subset=("hog",), n_dims=1, folds={"auroc": (float("nan"), 0.5)})
    record = record.model_copy(update={"selection": selection.model_copy(update={"chosen": undefined})})
    content = json.loads(record.model_dump_json())
    assert content["selection"]["chosen"]["folds"] == {"auroc": [None, 0.5]}
    assert np.isnan(RunRecord.model_validate_json(json.dumps(content)).choice.chosen.folds["auroc"][0])


def test_the_environment_names_versions_and_hardware():
    found = Environment.here()
    assert found.libraries["numpy"] == np.__version__
    assert found.cores >= 1


def test_a_source_is_found_again_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    found = DataSource.of("images", label=["a", "b"], task=Task.MULTILABEL)
    assert (found.source, found.label, found.task) == (str(tmp_path / "images"), ("a", "b"), "multilabel")
    assert not found.in_memory
    assert DataSource.of("bloodmnist").source == "bloodmnist"
    assert DataSource.of(np.zeros(3)).kind == "ndarray"
    assert DataSource.of("images", val=np.zeros(3)).in_memory
    assert DataSource.of("images", test="auto").test is None
    assert DataSource.of("images", test="other").test == DataSource(source="other")
