import json

import pandas as pd


def test_a_curve_is_written_shown_and_put_into_the_report(fitted, succeeds, fails, tmp_path):
    figures = tmp_path / "figures"
    ran = succeeds("curve", fitted, "--per-class", "2,3", "--repeats", 1, "--figures", figures)
    assert "Doubling the labels" in ran.out or "More labels" in ran.out
    assert "With few labels" in ran.out
    assert (figures / "learning-curve.png").is_file()
    page = (fitted / "report.html").read_text()
    assert 'data-figure="learning-curve"' in page
    found = json.loads(succeeds("curve", fitted, "--per-class", "2,3", "--repeats", 1, "--json").out)
    written = json.loads((fitted / "curve.json").read_text())
    assert {name: found[name] for name in written} == written
    assert [each["per_class"] for each in found["sets"]] == [2, 3, None, None, None]
    assert len(found["models"]["chosen"]["points"][0]["values"]) == 2
    samples = pd.read_parquet(fitted / "samples.parquet")
    assert found["n_train"] + found["n_test"] == (samples["split"] != "test").sum()
    (fitted / "curve.json").write_text((fitted / "curve.json").read_text().replace("0.", "1.", 1))
    assert "biofuse curve RUN" in fails("report", fitted).err


def test_numbers_that_are_none_are_wrong_usage(biofuse, tmp_path):
    assert biofuse("curve", tmp_path, "--per-class", "5,ten").code == 2
