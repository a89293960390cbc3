import numpy as np
import pytest

from biofuse.report.sections import maps


def test_report_writes_the_page_and_says_where(fitted, succeeds):
    ran = succeeds("report", fitted, "--no-umap")
    assert f"Written to {fitted / 'report.html'}." in ran.err
    assert "<!doctype html>" in (fitted / "report.html").read_text()[:20]


@pytest.mark.slow
def test_report_writes_elsewhere_with_figures(fitted, succeeds, tmp_path):
    ran = succeeds("report", fitted, "--no-umap", "--out", tmp_path / "page.html", "--figures", tmp_path / "figures")
    assert (tmp_path / "page.html").is_file()
    assert (tmp_path / "figures" / "singles.svg").is_file()
    assert "Figures are in" in ran.err


@pytest.mark.parametrize("installed", [True, False])
def test_the_map_is_drawn_by_umap_where_that_is_installed(fitted, succeeds, monkeypatch, installed):
    monkeypatch.setattr("biofuse.api.report.has_umap", lambda: installed)
    monkeypatch.setattr(maps, "NEIGHBOURS", 3)
    monkeypatch.setattr(maps, "_umap", lambda matrices: np.concatenate(matrices)[:, :2])  # compiled in seconds
    succeeds("report", fitted)
    assert ("Samples by UMAP" in (fitted / "report.html").read_text()) == installed


def test_report_of_no_run_says_what_to_do(fails, tmp_path):
    assert "biofuse fit" in fails("report", tmp_path).err
