"""``biofuse.export_onnx``: a fitted model as one ONNX file that runs without BioFuse and without torch."""

import contextlib
import importlib.metadata
import shlex
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.api.similar import development_reader
from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import ArtifactError, BioFuseError, DependencyError, UnreadableImageError, option
from biofuse.core.files import TEMPORARY_SUFFIX, disk_errors, write_text
from biofuse.core.hashing import generator, hash_order
from biofuse.core.target import THRESHOLD, Task
from biofuse.data.decoding import DecodePolicy, RGBImage, decode
from biofuse.encoders.encoder import as_tensor, probe_images
from biofuse.encoders.graph import OPSET, missing, write_graph
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.evaluation.metrics import Record
from biofuse.extract.options import ExtractOptions
from biofuse.model.model import BioFuseModel
from biofuse.runs.run import RECORD, Run
from biofuse.search.rules import CHOSEN
from biofuse.store.store import EmbeddingStore, as_store

if TYPE_CHECKING:
    from biofuse.encoders.encoder import TorchEncoder

GRAPH, WEIGHTS, DESCRIPTION, README = "model.onnx", "model.onnx.data", "preprocessing.json", "README.md"
"""The graph, its weights where they do not fit into one file, what goes in and comes out, and how to call it."""

OUTPUT = "probabilities"
"""Name of the graph's output."""

TOLERANCE = 1e-4
"""Largest difference between a probability of the graph and one of the model."""

SINGLE = TOLERANCE / 10
"""Difference up to which everything behind the encoders is left in float32, which more runtimes can compute."""

IMAGES = 8
"""Most development images that the graph is checked with, beside synthetic ones."""

ROWS = 256
"""Rows of embeddings that a graph from embeddings is checked with."""

Prepared = tuple[dict[str, NDArray[np.float32]], NDArray[np.float64]]
"""What goes into the graph, by input, and the probabilities of the model."""


class GraphInput(Record):
    """One input of the graph.

    Attributes
    ----------
    name : str
    encoders : tuple of str
        Those that it is for.
    shape : tuple of (str or int)
        ``n`` is any number of images. Pixels are (n, channels, height, width), red, green, blue.
    preprocessing : Preprocessing or None
        How an image becomes pixels; None for embeddings.
    """

    name: str
    encoders: tuple[str, ...]
    shape: tuple[str | int, ...]
    dtype: Literal["float32"] = "float32"
    colours: Literal["RGB"] | None = "RGB"
    preprocessing: Preprocessing | None = None


class Checked(Record):
    """How the graph was compared with the model.

    Attributes
    ----------
    rows : int
        Images, or rows of embeddings.
    what : str
        What they were.
    largest_difference, tolerance : float
        Of any probability.
    onnxruntime : str
        Version.
    """

    rows: int
    what: str
    largest_difference: float
    tolerance: float = TOLERANCE
    onnxruntime: str


class OnnxExport(Record):
    """What lies beside an exported graph: everything that is needed to call it.

    Attributes
    ----------
    made_by, model : str
        BioFuse's version, and the model's folder.
    encoders : tuple of str
    task : Task
    classes : tuple of str
        In the order of the columns of the output.
    output : str
        Name of the output, float32, shape (n, n_classes).
    decision : str
        How probabilities become a class, in words.
    decode : DecodePolicy
        How files become 8-bit colours: grey images are repeated, transparency is laid on white, orientation is obeyed.
    inputs : tuple of GraphInput
        In order.
    opset : int
        Version of ONNX's operators.
    behind_encoders : {"float32", "float64"}
        What standardisation, fusion, heads and calibration are computed in.
    files : tuple of str
    remarks : tuple of str
    checked : Checked
    """

    format: int = 1
    made_by: str
    model: str
    encoders: tuple[str, ...]
    task: Task
    classes: tuple[str, ...]
    output: str = OUTPUT
    decision: str
    decode: DecodePolicy
    inputs: tuple[GraphInput, ...]
    opset: int = OPSET
    behind_encoders: Literal["float32", "float64"]
    files: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    checked: Checked


def export_onnx(
    run: Path | str,
    folder: Path | str,
    *,
    variant: str = CHOSEN,
    embeddings: bool = False,
    store: EmbeddingStore | Path | str | None = None,
    options: ExtractOptions | None = None,
) -> OnnxExport:
    """Write a model as one ONNX file, from prepared pixels, or from embeddings, to calibrated probabilities.

    Encoders, standardisation, fusion, heads and calibration are one graph with one input for each way of preparing an
    image. How images are prepared stands in ``preprocessing.json`` beside it, and a program that runs it without
    BioFuse and torch in ``README.md``. The graph's probabilities are compared with the model's, and nothing is written
    where they differ by more than 1e-4.

    Parameters
    ----------
    run : path
        A run directory, or a saved model.
    folder : path
        Where the files go: a new folder, an empty one, or an earlier export, which is replaced.
    variant : {"chosen", "best_single", "all", "greedy", "lean"}
        Which of the models of a run.
    embeddings : bool, default False
        Whether the graph starts at the embeddings, one input for each encoder: for encoders that are no network of
        torch.
    store : EmbeddingStore or path, optional
        Where development embeddings are looked for, to check such a graph with; by default the user's store.
    options : ExtractOptions, optional
        ``weights_dir`` says where weights lie.

    Returns
    -------
    OnnxExport
        What ``preprocessing.json`` holds.

    Raises
    ------
    DependencyError
        If a library of the extra ``onnx`` is not installed.
    EncoderError, ArtifactError
        If a part of the model has no graph, or the graph's probabilities are not the model's.
    DiskError
        If the files cannot be written.

    Examples
    --------
    >>> import biofuse
    >>> fuse = biofuse.BioFuse(["colour", "lbp"], head="ridge")
    >>> _ = fuse.fit("images/", out="run", progress=False)
    >>> done = biofuse.export_onnx("run", "onnx", embeddings=True)
    >>> done.classes, done.checked.largest_difference < 1e-4
    (('benign', 'malignant'), True)
    """
    _require_libraries()
    model, target = BioFuseModel.load(run, variant=variant), Path(folder).absolute()
    if not model.target.categorical:
        raise ArtifactError(
            f"The graph gives probabilities of classes, and this model predicts {model.target.text}.",
            remedy=f"Predict with BioFuse: biofuse predict {shlex.quote(str(run))} IMAGES --out predictions.csv; in "
            "Python, model.resident().",
        )
    if target.exists() and (not target.is_dir() or {each.name for each in target.iterdir()} - set(_FILES)):
        raise ArtifactError(f"{folder} exists and is no export.", remedy="Choose an empty folder.")
    if embeddings:
        inputs = tuple(
            GraphInput(name=card.name, encoders=(card.name,), shape=("n", card.dim), colours=None)
            for card in model.cards
        )
        encoders: dict[str, TorchEncoder] = {}
        prepared, what = _embedded(model, run, as_store(store))
    else:
        from biofuse.model.graph import load_networks

        encoders = load_networks(model.cards, weights_of=(options or ExtractOptions()).weights_of)
        inputs = _pixel_inputs(model)
        prepared, what = _pictured(model, encoders, inputs, run)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    with disk_errors(target):
        try:
            temporary.mkdir(parents=True)
            double = _write_graph(model, encoders, inputs, prepared, folder=temporary)
            export = OnnxExport(
                made_by=f"BioFuse {importlib.metadata.version('biofuse-embed')}",
                model=Path(run).resolve().name,
                encoders=model.encoders,
                task=model.task,
                classes=model.classes,
                decision=_decision(model),
                decode=model.decode,
                inputs=inputs,
                behind_encoders="float64" if double else "float32",
                files=tuple(name for name in (GRAPH, WEIGHTS) if (temporary / name).exists()),
                remarks=_remarks(model, embeddings=embeddings),
                checked=_check(temporary / GRAPH, prepared, what=what),
            )
            write_text(temporary / DESCRIPTION, export.model_dump_json(indent=2) + "\n")
            write_text(temporary / README, _readme(export))
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return export


_FILES = (GRAPH, WEIGHTS, DESCRIPTION, README)


def _require_libraries() -> None:
    lacking = missing()
    if lacking:
        raise DependencyError(
            f"Writing ONNX files needs {', '.join(lacking)}.", remedy="pip install 'biofuse-embed[onnx]'"
        )


def _pixel_inputs(model: BioFuseModel) -> tuple[GraphInput, ...]:
    """Return one input for each way of preparing images, in the order of the encoders."""
    alike: dict[Preprocessing, list[str]] = {}
    for card in model.cards:
        alike.setdefault(card.preprocessing, []).append(card.name)
    return tuple(
        GraphInput(
            name="pixels" if len(alike) == 1 else f"pixels_{number}",
            encoders=tuple(names),
            shape=("n", 3, preprocessing.output_size, preprocessing.output_size),
            preprocessing=preprocessing,
        )
        for number, (preprocessing, names) in enumerate(alike.items(), start=1)
    )


def _pictured(
    model: BioFuseModel, encoders: "Mapping[str, TorchEncoder]", inputs: Sequence[GraphInput], run: Path | str
) -> tuple[Prepared, str]:
    """Prepare development images, where they are at hand, and synthetic ones, and have the model predict them."""
    side = max(card.preprocessing.output_size for card in model.cards)
    images, own = [*probe_images(side)], _development_images(model, run)
    images += own
    given: dict[str, NDArray[np.float32]] = {}
    matrices: dict[str, NDArray[np.float32]] = {}
    for each in inputs:
        if each.preprocessing is None:
            continue
        pixels = np.stack([each.preprocessing.apply(image) for image in images])
        given[each.name] = each.preprocessing.normalise(as_tensor(pixels)).contiguous().numpy()
        matrices |= {name: encoders[name].encode(pixels) for name in each.encoders}
    ids = np.array([str(row) for row in range(len(images))], dtype=object)
    blocks = Blocks(ids=ids, matrices={name: matrices[name] for name in model.encoders})
    what = f"{len(own)} development images and 3 synthetic ones" if own else "3 synthetic images"
    return (given, model.probabilities(blocks)), what


def _development_images(model: BioFuseModel, run: Path | str) -> list[RGBImage]:
    """Read some development images of a run; none where they are not at hand, which is said in what is returned."""
    if not (Path(run) / RECORD).is_file():
        return []
    opened, found = Run.open(run), []
    known = set(opened.samples.loc[opened.samples["split"] != "test", "id"])
    with contextlib.suppress(BioFuseError):
        samples = opened.load_samples()[0]
        names = samples.ids.tolist()
        for row in [row for row in hash_order(list(map(str, names))) if names[row] in known][:IMAGES]:
            source = samples.sources[row]
            with contextlib.suppress(UnreadableImageError):
                found.append(decode(source.read(), model.decode, description=source.description))
    return found


def _embedded(model: BioFuseModel, run: Path | str, store: EmbeddingStore) -> tuple[Prepared, str]:
    """Take development embeddings, where the store has them, or made-up ones, and have the model predict them."""
    blocks, what = None, f"{ROWS} made-up rows about the development embeddings"
    if (Path(run) / RECORD).is_file():
        with contextlib.suppress(BioFuseError):
            reader = development_reader(Run.open(run), model.encoders, store)
            blocks = reader.take(hash_order(list(map(str, reader.ids)))[:ROWS]).read()
            what = f"{blocks.n_samples} development embeddings"
    if blocks is None:
        blocks = _made_up(model)
    given = {name: np.array(blocks[name], dtype=np.float32, order="C") for name in model.encoders}
    return (given, model.probabilities(blocks)), what


def _made_up(model: BioFuseModel) -> Blocks:
    novelty = model.trust.novelty
    width = sum(card.dim for card in model.cards)
    rows = generator(0, "export", width).normal(size=(ROWS, width))
    if novelty is not None:
        sizes = np.repeat([card.dim for card in model.cards], [card.dim for card in model.cards])
        rows = novelty.projection.mean + rows * novelty.projection.scale / np.sqrt(sizes)
    parts = np.split(rows.astype(np.float32), np.cumsum([card.dim for card in model.cards])[:-1], axis=1)
    ids = np.array([str(row) for row in range(ROWS)], dtype=object)
    return Blocks(ids=ids, matrices=dict(zip(model.encoders, parts, strict=True)))


def _write_graph(
    model: BioFuseModel,
    encoders: "Mapping[str, TorchEncoder]",
    inputs: Sequence[GraphInput],
    prepared: Prepared,
    *,
    folder: Path,
) -> bool:
    """Write the graph, and return whether everything behind the encoders had to be float64."""
    import torch

    from biofuse.model.graph import Graph

    given, wanted = prepared
    names, every = [each.encoders for each in inputs], [each.name for each in inputs]
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(given[each.name])) for each in inputs)
    double, graph = False, Graph(model, encoders, names)
    with torch.inference_mode():
        found = graph(*tensors).numpy()
    if not np.abs(found - wanted).max(initial=0) <= SINGLE:
        double, graph = True, Graph(model, encoders, names, double=True)
    try:
        write_graph(graph, dict(zip(every, tensors, strict=True)), folder / GRAPH, output=OUTPUT)
    except Exception as error:  # torch's exporter raises what the network makes it raise
        raise ArtifactError(
            f"torch cannot write {', '.join(encoders) or 'the model'} as a graph: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}",
            remedy=f"Export from embeddings: {option('embeddings', True)}; and report which encoder it was.",
        ) from error
    return double


def _check(path: Path, prepared: Prepared, *, what: str) -> Checked:
    """Compare the graph with the model, on all rows together and on one alone.

    Raises
    ------
    ArtifactError
        If a probability differs by more than :data:`TOLERANCE`.
    """
    import onnxruntime

    given, wanted = prepared
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    together = session.run([OUTPUT], given)[0]
    alone = session.run([OUTPUT], {name: values[:1] for name, values in given.items()})[0]
    worst = float(max(np.abs(together - wanted).max(), np.abs(alone - wanted[:1]).max()))
    if not worst <= TOLERANCE:
        raise ArtifactError(
            f"The graph's probabilities differ from the model's by up to {worst:.2g}, more than {TOLERANCE:g}; nothing "
            "was written.",
            remedy=f"Export from embeddings: {option('embeddings', True)}; and report which encoder it was.",
        )
    return Checked(rows=len(wanted), what=what, largest_difference=worst, onnxruntime=onnxruntime.__version__)


def _decision(model: BioFuseModel) -> str:
    if model.target.measured:
        return "none: each column is a value, in its own unit"
    if model.target.several:
        return f"every label whose probability exceeds {THRESHOLD}"
    if model.target.positive is not None:
        return f"{model.classes[1]} where its probability exceeds {THRESHOLD}, else {model.classes[0]}"
    return "the class of the highest probability"


def _remarks(model: BioFuseModel, *, embeddings: bool) -> tuple[str, ...]:
    lower = {name: kind for name, kind in model.precisions.items() if kind != "fp32"}
    said = [] if model.trust.calibration is not None else ["The probabilities are not calibrated: the model is not."]
    if lower and not embeddings:
        listed = ", ".join(f"{name} in {kind}" for name, kind in lower.items())
        said.append(f"The graph computes in fp32 where the model was fitted on other embeddings: {listed}.")
    said.append("Unlike the model, it does not say which images are unlike the development data, and gives no sets.")
    return tuple(said)


SCALES = {
    "0-1": "pixels / 255",
    "0-255": "pixels",
    "min-max": "(pixels - pixels.min()) / max(np.ptp(pixels), 1)",
    "standard": "(pixels - pixels.mean((0, 1))) / np.maximum(pixels.std((0, 1)), 1e-3)",
    "percentile": "(lambda low, high: np.where(high - low > 1e-3, (pixels - low) / np.maximum(high - low, 1e-3), 0))("
    "*np.percentile(pixels, (1, 99), (0, 1)))",
}
"""How pixels are brought to the range that means and deviations are in, as :class:`Preprocessing` does it."""

INNER = """    if how["resize"] == "inner":
        x, y = (length // 2 - short // 2 for length in image.size)
        part = image.crop((x, y, x + short, y + short))
"""
LONGEST = """    if how["resize"] == "longest":
        size = [max(1, int(length * full / max(image.size))) for length in image.size]
"""
FROM_PIXELS = """import json, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps

about, feeds = json.load(open("preprocessing.json")), {}
image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
for each in about["inputs"]:
    how, part, short = each["preprocessing"], image, min(image.size)
INNER    full, side = how["size"], how["crop"] or how["size"]
    size = [full * length // short if how["resize"] == "shortest" else full for length in image.size]
LONGEST    small = part.resize(size, Image.Resampling[how["interpolation"].upper()])
    place = round if how["odd_crop"] == "round" else int
    left, top = (place(max(0, length - side) / 2) for length in size)
    pixels = np.asarray(small.crop((left, top, left + side, top + side)), np.float32)
    scaled = SCALE
    feeds[each["name"]] = ((scaled - how["mean"]) / how["std"]).transpose(2, 0, 1)[None].astype(np.float32)
found = onnxruntime.InferenceSession("model.onnx").run(["probabilities"], feeds)[0][0]
print(json.dumps(dict(zip(about["classes"], found.tolist()))))
"""
"""The program beside a graph; the lines of ways to resize that no input has are left out. Pillow crops beyond an image
in black."""

FROM_EMBEDDINGS = """import json, sys
import numpy as np, onnxruntime

about, blocks = json.load(open("preprocessing.json")), np.load(sys.argv[1])
feeds = {each["name"]: blocks[each["name"]].astype(np.float32) for each in about["inputs"]}
for row in onnxruntime.InferenceSession("model.onnx").run(["probabilities"], feeds)[0]:
    print(json.dumps(dict(zip(about["classes"], row.tolist()))))
"""


def example_program(inputs: Sequence[GraphInput]) -> str:
    """Return a program that calls a graph with these inputs, without BioFuse and without torch."""
    ways = [each.preprocessing for each in inputs if each.preprocessing is not None]
    if not ways:
        return FROM_EMBEDDINGS
    kinds = list(dict.fromkeys(way.value_range for way in ways))
    scale = SCALES[kinds[-1]]
    for kind in kinds[:-1]:
        scale = f'{SCALES[kind]} if how["value_range"] == "{kind}" else {scale}'
    resizes = {way.resize for way in ways}
    program = FROM_PIXELS.replace("SCALE", scale)
    program = program.replace("INNER", INNER if "inner" in resizes else "")
    return program.replace("LONGEST", LONGEST if "longest" in resizes else "")


def _readme(export: OnnxExport) -> str:
    pixels = any(each.preprocessing is not None for each in export.inputs)
    rows = "\n".join(f"| `{each.name}` | {list(each.shape)} | {', '.join(each.encoders)} |" for each in export.inputs)
    given = (
        "an 8-bit image without transparency, `python example.py image.png`"
        if pixels
        else "a NumPy file with an array [n, columns] for each encoder, `python example.py blocks.npz`"
    )
    remarks = "\n".join(f"- {line}" for line in (*export.remarks, "For research; not for clinical use."))
    return f"""# {export.model}, as ONNX

{export.made_by} wrote `{GRAPH}`: {", ".join(export.encoders)}, then standardisation, fusion, heads and calibration.
It was compared with the model on {export.checked.what}: no probability differs by more than
{export.checked.largest_difference:.1e}.

| input | shape, float32 | for |
|---|---|---|
{rows}

The output `{OUTPUT}`, float32 [n, {len(export.classes)}], has the columns {", ".join(export.classes)}. The model calls
{export.decision}. `{DESCRIPTION}` says how an image becomes each input.

Saved as `example.py`, and run in this folder, this needs numpy, Pillow and onnxruntime only, and takes {given}:

```python
{example_program(export.inputs)}```

{remarks}
"""
