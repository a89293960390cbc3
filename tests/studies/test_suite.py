"""Several data sets with the same options."""

import pytest

from biofuse.core.errors import DataError, DiskError
from biofuse.studies.suite import benchmark_data, names_of


@pytest.mark.slow
def test_every_data_set_is_fitted_evaluated_and_compared(fuse, make_images, archives, tmp_path):
    make_images(tmp_path / "colours", per_class=12)
    outcome = benchmark_data(
        fuse, [str(tmp_path / "colours"), str(archives / "octmnist.npz")], out=tmp_path / "out", progress=False
    )
    assert [run.name for run in outcome.comparison.runs] == ["colours", "octmnist"]
    for run in outcome.comparison.runs:
        assert run.evaluation.split == "test"
        assert set(run.evaluation.singles) == {"s_rows", "s_tiles"}
    assert outcome.comparison.runs[0].n_test == sum(outcome.comparison.runs[0].record.counts["test"].values())
    assert "colours" in outcome.to_html()
    assert outcome.links == {"colours": "colours/report.html", "octmnist": "octmnist/report.html"}
    for name, address in outcome.links.items():
        page = (tmp_path / "out" / address).read_text()
        assert f"<title>{name}" in page
        assert "Test results" in page
        assert "has not been tested yet" not in page
        assert page.count("<img ") >= 6
        assert f'href="{address}"' in outcome.to_html()
    assert outcome._repr_html_().count("<table ") == len(outcome.tables())


def test_a_report_that_fails_is_said_and_the_benchmark_goes_on(fuse, make_images, tmp_path, monkeypatch):
    make_images(tmp_path / "colours", per_class=12)

    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("biofuse.api.report.build_report", broken)
    said = []
    outcome = benchmark_data(fuse, [str(tmp_path / "colours")], out=tmp_path / "out", progress=False, tell=said.append)
    assert list(outcome.finished) == ["colours"]
    assert outcome.links == {}
    assert any("was not written (ZeroDivisionError: by zero)" in line for line in said)


def test_one_that_cannot_be_read_is_passed_over_and_named(fuse, make_images, tmp_path):
    make_images(tmp_path / "colours", per_class=12)
    (tmp_path / "nothing").mkdir()
    sources = [str(tmp_path / "nothing"), str(tmp_path / "colours")]
    said = []
    outcome = benchmark_data(fuse, sources, out=tmp_path / "out", progress=False, tell=said.append)
    assert list(outcome.finished) == ["colours"]
    assert any("nothing cannot be run: No images" in line for line in said)
    assert any("nothing could not be run" in note for note in outcome.notes)
    with pytest.raises(DataError, match="No images"):
        benchmark_data(fuse, sources[:1], out=tmp_path / "out", progress=False)


def test_what_concerns_all_data_sets_stops_the_benchmark(fuse, make_images, tmp_path, monkeypatch):
    make_images(tmp_path / "colours", per_class=12)

    def full(*_, **__):
        raise DiskError("The disk is full.", remedy="Free some space.")

    monkeypatch.setattr("biofuse.studies.suite.evaluate", full)
    with pytest.raises(DiskError):
        benchmark_data(fuse, [str(tmp_path / "colours")], out=tmp_path / "out", progress=False)


def test_names_are_those_of_folders_and_files_and_told_apart(tmp_path):
    for name in ("blood", "a", "b"):
        (tmp_path / name).mkdir()
    sources = [str(tmp_path / "blood"), str(tmp_path / "a" / "m.csv"), str(tmp_path / "b" / "m.csv"), "breastmnist_64"]
    assert list(names_of(sources)) == ["blood", "a-m", "b-m", "breastmnist_64"]
    assert list(names_of(sources).values()) == sources
    with pytest.raises(DataError, match="named twice"):
        names_of([sources[0], sources[0] + "/"])
