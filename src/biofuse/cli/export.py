"""``biofuse export`` and ``similar``: what leaves a run for other programs, and its nearest development images."""

from pathlib import Path
from typing import Annotated, Any

import typer

from biofuse.cli import options
from biofuse.cli.console import note, show_answer
from biofuse.cli.report import show_page
from biofuse.core.errors import BioFuseError, option
from biofuse.core.options import divide
from biofuse.data.config import DataConfig
from biofuse.extract.options import ExtractOptions
from biofuse.search.rules import CHOSEN, VariantName


def export(
    run: Annotated[Path, typer.Argument(help="A run directory that `biofuse fit` wrote.", show_default=False)],
    *,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", help="A folder to write the model into as ONNX, from pixels on.")
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings", help="Let that graph start at the embeddings: for encoders that are no networks."),
    ] = False,
    variant: Annotated[
        VariantName, typer.Option(help="Which of the run's models becomes ONNX: the chosen one, or another.")
    ] = CHOSEN,
    vectors: Annotated[
        Path | None,
        typer.Option("--vectors", help="A folder to write the development images into as vectors, in Parquet."),
    ] = None,
    store: options.Store = None,
    weights_dir: options.WeightsDir = None,
) -> None:
    """Write a run's model as ONNX, or its development images as vectors for an index.

    The ONNX file needs neither BioFuse nor torch: how images are prepared, and a program that does it, lie beside it.
    It is compared with the model before it is handed over.

    [bold]Examples[/bold]

      biofuse export run --onnx deployed

      biofuse export run --onnx deployed --embeddings

      biofuse export run --vectors index
    """
    import biofuse
    from biofuse.api.export import DESCRIPTION, README

    if onnx is None and vectors is None:
        raise BioFuseError(
            "Nothing is to be exported.", remedy=f"Give {option('onnx', 'FOLDER')} or {option('vectors', 'FOLDER')}."
        )
    if onnx is not None:
        chosen = ExtractOptions() if weights_dir is None else ExtractOptions(weights_dir=weights_dir)
        done = biofuse.export_onnx(run, onnx, variant=variant, embeddings=embeddings, store=store, options=chosen)
        show_answer(
            {
                "Written": "\n".join(str(onnx / name) for name in (*done.files, DESCRIPTION, README)),
                "Inputs": "\n".join(
                    f"{each.name} {_shape(each.shape)}: {', '.join(each.encoders)}" for each in done.inputs
                ),
                "Output": f"{done.output} {_shape(('n', len(done.classes)))}: {', '.join(done.classes)}",
                "Checked": f"on {done.checked.what}: no probability differs by more than "
                f"{done.checked.largest_difference:.1e}",
            }
        )
        for line in done.remarks:
            note(line)
    if vectors is not None:
        path = biofuse.export_vectors(run, vectors, store=store)
        note(f"Written to {path}.")


def _shape(shape: tuple[str | int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


@options.offers(DataConfig, ExtractOptions)
def similar(
    run: Annotated[Path, typer.Argument(help="A run directory that `biofuse fit` wrote.", show_default=False)],
    image: Annotated[str, typer.Argument(help="One image.", show_default=False)],
    *,
    k: Annotated[int, typer.Option("-k", min=1, help="How many development images.")] = 12,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a sheet with pictures, as one HTML page, too.")
    ] = None,
    store: options.Store = None,
    as_json: options.Json = False,
    **chosen: Any,
) -> None:
    """Find the development images that are most like an image, by the embeddings of the chosen encoders.

    [bold]Examples[/bold]

      biofuse similar run new.png

      biofuse similar run new.png -k 24 --out sheet.html
    """
    import biofuse
    from biofuse.core.files import write_text

    reading, embedding = divide(chosen, DataConfig, ExtractOptions)
    found = biofuse.similar(run, image, k=k, store=store, **reading, **embedding)
    if out is not None:
        write_text(out, found.to_html())
    show_page(found, as_json=as_json)
    if out is not None:
        note(f"Written to {out}.")
