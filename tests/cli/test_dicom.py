"""DICOM files from a folder to a report; and that nothing of them tells whose they are."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest

from biofuse.core.files import home

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
FIT = ("-e", "haralick,hog", "--folds", 2, "--repeats", 1)

SECRET = {
    "PatientID": "MRN-{}-7741",
    "PatientName": "Lovelace{}^Ada",
    "PatientBirthDate": "18151210",
    "AccessionNumber": "ACC{}99",
    "StudyInstanceUID": "1.2.826.0.1.{}.77",
    "SeriesInstanceUID": "1.2.826.0.1.{}.88",
    "InstitutionName": "Saint Elsewhere",
}
"""What identifies a patient, a study or a place; {} is the patient's number."""


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Ten patients with CT and ten with MR of two images each, without suffixes; an index and a report beside them."""
    random = np.random.default_rng(0)
    folder = tmp_path / "scans"
    for number in range(20):
        source = FILES / ("CT_small.dcm" if number % 2 else "MR_small.dcm")
        for image in range(2):
            dataset = pydicom.dcmread(source)
            pixels = dataset.pixel_array[:64, :64] + random.integers(-50, 50, (64, 64))
            dataset.Rows = dataset.Columns = 64
            dataset.PixelData = pixels.astype(np.int16).tobytes()
            for keyword, text in SECRET.items():
                setattr(dataset, keyword, text.format(number))
            path = folder / dataset.Modality.lower() / f"IM{number:03d}{image}"
            path.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(path)
    (folder / "DICOMDIR").write_bytes((FILES / "dicomdirtests" / "DICOMDIR").read_bytes())
    (folder / "ct" / "IM9990").write_bytes((folder / "ct" / "IM0010").read_bytes()[:-1000])
    report = pydicom.dcmread(FILES / "test-SR.dcm")
    for keyword, text in SECRET.items():
        setattr(report, keyword, text.format(0))
    report.save_as(folder / "mr" / "IM9991")
    return folder


def test_reasons_and_remedies_are_in_the_words_of_the_terminal(tmp_path: Path, biofuse: Callable[..., Any]) -> None:
    for name in ("MR_small.dcm", "CT_small.dcm"):
        (tmp_path / "scans" / name[:2]).mkdir(parents=True)
        (tmp_path / "scans" / name[:2] / name).write_bytes((FILES / name).read_bytes())
    for more in ((), ("--json",)):
        ran = biofuse("check", tmp_path / "scans", "--window", "lung", *more)
        said = " ".join(ran.out.split())
        assert ran.code == 1
        assert "--window lung is a window of CT" in said
        assert "or --window percentiles, or none" in said
        assert "window=" not in ran.everything


@pytest.mark.slow
def test_from_a_folder_of_dicom_to_a_report_and_nothing_written_tells_whose_it_is(
    scans: Path, biofuse: Callable[..., Any], succeeds: Callable[..., Any], fails: Callable[..., Any], caplog: Any
) -> None:
    caplog.set_level(0)
    tmp_path = scans.parent
    run, fit = tmp_path / "run", ("fit", scans, *FIT, "--group", "patient")
    said = [biofuse("check", scans, "--group", "patient"), fails(*fit, "--out", run)]
    said.append(succeeds(*fit, "--on-error", "quarantine", "--window", "percentiles", "--out", run))
    said.append(succeeds("evaluate", run, "--on-error", "quarantine"))
    said.append(succeeds("predict", run, scans, "--on-error", "quarantine", "--out", tmp_path / "p.csv"))
    predictions = pd.read_csv(tmp_path / "p.csv")
    assert len(predictions) == 40
    assert (predictions["prediction"] == predictions["id"].str.split("/").str[0]).mean() > 0.9
    written = [path for path in tmp_path.rglob("*") if path.is_file() and scans not in path.parents]
    written += [path for path in home().rglob("*") if path.is_file()]
    assert {"report.html", "run.json", "quarantine.csv", "identifiers.key"} <= {path.name for path in written}
    held = [path.read_bytes() for path in written]
    held += [caplog.text.encode(), *(ran.everything.encode() for ran in said)]
    secret = re.compile("|".join(re.escape(text).replace(r"\{\}", r"\d+") for text in SECRET.values()).encode())
    assert not [place for place, content in enumerate(held) if secret.search(content)]
    assert secret.search((scans / "ct" / "IM0010").read_bytes()), "what is looked for can be found"
    listed = "".join(path.read_text() for path in run.glob("quarantine*.csv"))
    assert "cut off" in listed
    assert "a report (SR)" in listed
    groups = pd.read_parquet(run / "samples.parquet")["group"]
    assert groups[groups.str.startswith("patient ")].nunique() == 20
