"""What is written into ``run.json`` is read back as it was, whatever it is."""

import json
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biofuse.core.target import Task
from biofuse.data.config import DataConfig
from biofuse.data.decoding import DecodePolicy
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.registry import get_card
from biofuse.evaluation.metrics import Score
from biofuse.runs.record import RUN_FORMAT, DataSource, Environment, RunRecord
from biofuse.runs.run import Run, read_record
from biofuse.search.config import SearchConfig
from biofuse.search.leaderboard import Row, Subset, SubsetKey
from biofuse.search.rules import Selection

number, words = st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=12)
subset = st.lists(st.sampled_from(("hog", "lbp", "timm:resnet18", "função")), min_size=1, unique=True).map(tuple)
source = {
    "source": st.none() | words,
    "kind": st.none() | words,
    "config": st.builds(DataConfig, label=st.lists(words, max_size=2).map(tuple), page=st.integers(0, 9)),
}
KNOWN = {
    float: number,
    Score: number | st.just(float("nan")),  # an undefined one
    int: st.integers(0, 2**40),
    str: words,
    Subset: subset | st.lists(words, max_size=2).map(tuple),
    SubsetKey: subset,
    EncoderCard: st.sampled_from([get_card("hog"), get_card("lbp")]),
    DecodePolicy: st.builds(DecodePolicy, page=st.integers(0, 9)),
    DataSource: st.builds(DataSource, **source, val=st.none() | st.builds(DataSource, **source)),
    SearchConfig: st.builds(SearchConfig, seed=st.integers(0, 9), max_latency=st.none() | st.floats(0.1, 9)),
    Environment: st.just(Environment.here()),
}
"""What the values of a type are, where the type alone does not say."""


def one_of(*kinds):
    return st.one_of(*map(values, kinds))


def table(key, value):
    return st.dictionaries(values(key), values(value), max_size=2)


BUILT = {
    Literal: lambda *choices: st.sampled_from(choices),
    Union: one_of,
    UnionType: one_of,
    tuple: lambda kind, _: st.lists(values(kind), max_size=2).map(tuple),
    dict: table,
    Mapping: table,
}


@cache
def values(kind):
    """Return any value of a type: a field that is added to the record is tested at once."""
    if kind in KNOWN:
        return KNOWN[kind]
    if get_origin(kind) in BUILT:
        return BUILT[get_origin(kind)](*get_args(kind))
    if hasattr(kind, "model_fields") or hasattr(kind, "__dataclass_fields__"):
        hints = get_type_hints(kind, include_extras=True)
        return st.builds(kind, **{name: values(hints[name]) for name in kind.__annotations__})
    return st.from_type(kind)


records = values(RunRecord).map(lambda record: record.model_copy(update={"format": RUN_FORMAT}))
patient = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)


@pytest.mark.slow
@patient
@given(records)
def test_a_record_is_read_as_it_was_written(tmp_path, record):
    run = Run(path=tmp_path, record=record.model_copy(update={"latency": {"before": 0.5}}))
    run.remember(latency=record.latency)
    found = read_record(tmp_path)
    assert found == record
    assert found.model_dump_json() == record.model_dump_json()


@pytest.mark.slow
@patient
@given(records)
def test_the_file_is_json_that_every_reader_knows(record):
    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(record.model_dump_json(), parse_constant=refuse)
    assert content["key"] == record.key


@pytest.mark.slow
@patient
@given(records, values(Selection))
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
    found = DataSource.of("images", config=DataConfig(label=["a", "b"], task=Task.MULTILABEL, root="images"))
    assert (found.source, found.config.root) == (str(tmp_path / "images"), tmp_path / "images")
    assert (found.config.label, found.config.task) == (("a", "b"), "multilabel")
    assert not found.in_memory
    before = DataSource.model_validate({"source": "images", "label": ["a", "b"], "group": "patient", "task": None})
    assert before.config == DataConfig(label=["a", "b"], group="patient")
    assert DataSource.of("bloodmnist").source == "bloodmnist"
    assert DataSource.of(np.zeros(3)).kind == "ndarray"
    assert DataSource.of("images", val=np.zeros(3)).in_memory
    assert DataSource.of("images", test="auto").test is None
    assert DataSource.of("images", test="other").test == DataSource(source="other")
