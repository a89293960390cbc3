"""``biofuse store``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import biofuse
from biofuse.cli import options
from biofuse.cli.console import human_bytes, note, show_json, show_table
from biofuse.cli.embed import tell_remarks
from biofuse.core.files import check_target
from biofuse.core.options import divide
from biofuse.data.config import DataConfig
from biofuse.extract.options import ExtractOptions
from biofuse.store.store import EmbeddingStore, clean_store, list_store, verify_store

if TYPE_CHECKING:
    from biofuse.extract.embeddings import Recomputed

app = typer.Typer(
    no_args_is_help=True, help="The embeddings kept on disk: list, verify, clean, export, and import those of others."
)

Precision = Annotated[
    Literal["fp32", "fp16", "bf16"] | None,
    typer.Option("--precision", help="Which embeddings are meant, where an encoder has been run in several."),
]


@app.command("ls")
def ls(*, store: options.Store = None, as_json: options.Json = False) -> None:
    """List the encoders that have embeddings in the store.

    [bold]Examples[/bold]

      biofuse store ls
    """
    chosen = EmbeddingStore(store)
    entries = list_store(chosen)
    if as_json:
        show_json(entries)
        return
    rows = [(e.encoder, e.embeddings, e.dim, e.precision, e.parts, e.broken, human_bytes(e.bytes)) for e in entries]
    columns = ("encoder", "embeddings", "columns", "precision", "parts", "broken", "size")
    show_table(str(chosen.root), columns, rows, numbers=("embeddings", "columns", "parts", "broken", "size"))
    for entry in entries:
        for origin in entry.imported:
            note(f"{entry.encoder} (imported:{entry.encoder}): {origin}")
    _tell_unreadable(chosen.unreadable())


@app.command("verify")
@options.offers(DataConfig, ExtractOptions)
def verify(
    *,
    recompute: Annotated[
        int | None,
        typer.Option("--recompute", min=1, help="Embed this many stored images per encoder again, and compare."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="The images, for --recompute: the store keeps only their hashes.", metavar="DATA"),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Recompute only this one: a name, or a fingerprint.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the random sample.")] = 0,
    store: options.Store = None,
    as_json: options.Json = False,
    **chosen: Any,
) -> None:
    """Hash every part and compare with its name; damaged parts are set aside and computed again by the next run.

    With --recompute, also embed a random sample of the stored images again: embeddings computed in fp32 may differ by
    1e-5 of the largest value of their row, of others the cosine must be at least .999.

    Exits with 1 if a part is damaged or an embedding differs.

    [bold]Examples[/bold]

      biofuse store verify

      biofuse store verify --recompute 20 --data images/
    """
    if (recompute is None) != (data is None):
        raise typer.BadParameter("--recompute N and --data DATA belong together.")
    if "use_store" in chosen:
        raise typer.BadParameter("--no-store leaves nothing to verify.")

    kept = EmbeddingStore(store)
    found = verify_store(kept)
    broken = [path for entry in found for path in entry.broken]
    unreadable = kept.unreadable()
    if not as_json:
        note(f"{sum(entry.parts for entry in found)} parts of {len(found)} encoders verified, {len(broken)} damaged.")
        for path in broken:
            note(f"  damaged, set aside: {path}")
        if broken:
            note("Run `biofuse embed` again to compute their rows anew, then `biofuse store gc` to remove the files.")
        _tell_unreadable(unreadable)
    compared: list[Recomputed] = []
    if recompute is not None and data is not None:
        from biofuse.data.microscopy import with_windows
        from biofuse.extract.embeddings import recompute as compute_again

        reading, embedding = divide(chosen, DataConfig, ExtractOptions)
        compared = compute_again(
            tell_remarks(
                with_windows(biofuse.load_samples(data, labelled=False, config=DataConfig(**reading), progress=True))
            ),
            store=kept,
            rows=recompute,
            encoder=encoder,
            seed=seed,
            options=ExtractOptions(**embedding),
        )
    if as_json:
        by_folder = {each.fingerprint: dataclasses.asdict(each) for each in compared}
        show_json([dataclasses.asdict(each) | {"recomputed": by_folder.get(each.fingerprint)} for each in found])
    else:
        _tell_compared(compared)
    if broken or unreadable or any(each.differing for each in compared):
        raise typer.Exit(1)


@app.command("gc")
def gc(
    *,
    store: options.Store = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: options.Json = False,
) -> None:
    """Remove what nobody reads: damaged parts, leftovers of killed runs, parts whose rows all stand elsewhere.

    Small parts are put together.

    Folders whose card cannot be read are named, and left alone.

    [bold]Examples[/bold]

      biofuse store gc --dry-run
    """
    cleaning = clean_store(EmbeddingStore(store), dry_run=dry_run)
    if as_json:
        show_json(cleaning)
        return
    verb = "Would remove" if dry_run else "Removed"
    note(f"{verb} {len(cleaning.removed)} files, {human_bytes(cleaning.bytes)}.")
    for path in cleaning.removed:
        note(f"  {path}")
    if cleaning.merged:
        note(f"{'Would put' if dry_run else 'Put'} {cleaning.merged} small parts together.")
    _tell_unreadable(cleaning.unreadable)


@app.command("export")
@options.offers(DataConfig)
def export(
    data: options.Data,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write: .h5ad, .parquet, .npz or .csv.")],
    encoders: Annotated[
        str | None,
        typer.Option(
            "--encoders",
            "-e",
            help=options.with_default(
                "Names, imported:NAME or fingerprints, separated by commas.", "all that have every image"
            ),
        ),
    ] = None,
    precision: Precision = None,
    store: options.Store = None,
    **chosen: Any,
) -> None:
    """Write stored embeddings beside ids, labels, splits and groups; nothing is computed.

    AnnData (.h5ad, needs anndata) gets obsm["X_<encoder>"] per encoder, the samples as obs, the cards in uns.

    [bold]Examples[/bold]

      biofuse store export images/ --encoders efficientnet_lite0,lbp --out embeddings.h5ad
    """
    from biofuse.data.microscopy import with_windows
    from biofuse.extract.embeddings import read_stored
    from biofuse.store.exchange import check_format, save_embeddings

    check_format(out)
    check_target(out)
    samples = tell_remarks(with_windows(biofuse.load_samples(data, config=DataConfig(**chosen), progress=True)))
    names = None if encoders is None else [name.strip() for name in encoders.split(",") if name.strip()]
    found = read_stored(samples, names, store=EmbeddingStore(store), precision=precision)
    save_embeddings(found.samples, found.blocks, out, cards=found.cards, precisions=found.precisions)
    dims = sum(found.blocks.dims.values())
    note(f"Wrote {len(samples)} samples × {dims} columns of {', '.join(found)} to {out}.")


@app.command("import")
@options.offers(DataConfig)
def import_(
    file: Annotated[Path, typer.Argument(help="Embeddings with ids: .npz, .parquet or .csv.", show_default=False)],
    *,
    encoder: Annotated[str, typer.Option("--encoder", "-e", help="What to call the encoder that made them.")],
    data: Annotated[str, typer.Option("--data", help="The images, whose ids are those of the file.", metavar="DATA")],
    title: Annotated[str, typer.Option("--title", help="Name as its authors write it.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Of its weights.")] = "unknown",
    modality: Annotated[str, typer.Option("--modality", help="What it was trained on.")] = "unknown",
    column: Annotated[
        str | None, typer.Option("--column", help="Array or list column, if not called like the encoder.")
    ] = None,
    id: Annotated[  # noqa: A002
        str | None, typer.Option("--id", help="Array or column of the ids, if not id or ids.")
    ] = None,
    store: options.Store = None,
    as_json: options.Json = False,
    **chosen: Any,
) -> None:
    """Keep embeddings that were made elsewhere, so that `fit` can search over them.

    FILE may be a folder of embeddings of tiles, a file per slide, that TRIDENT, CLAM or slide2vec wrote; DATA is then a
    table that names such a file for each slide.

    Every image of DATA must have a row; rows of other images are left out. The encoder is then asked for by its name,
    or as imported:NAME. It cannot embed images that were not imported, and neither can a model that uses it.

    [bold]Examples[/bold]

      biofuse store import ctranspath.npz --encoder ctranspath --title CTransPath --data images/

      biofuse fit images/ --encoders lbp,imported:ctranspath --out run

      biofuse store import trident/features_uni_v2/ --encoder uni-tiles --data slides.csv --root trident/features_uni_v2
    """
    from biofuse.data.microscopy import with_windows
    from biofuse.store.exchange import import_embeddings

    done = import_embeddings(
        file,
        tell_remarks(
            with_windows(biofuse.load_samples(data, labelled=False, config=DataConfig(**chosen), progress=True))
        ),
        encoder=encoder,
        store=EmbeddingStore(store),
        title=title,
        licence=licence,
        modality=modality,
        column=column,
        id_column=id,
    )
    if as_json:
        show_json(dataclasses.asdict(done) | {"card": done.card.model_dump(mode="json")})
        return
    known = f", {done.known} were there already" if done.known else ""
    unused = f" {done.unused} rows of {file} belong to no image of {data} and were left out." if done.unused else ""
    note(f"Imported {done.written} embeddings of {done.card.dim} columns as {done.card.name}{known}.{unused}")
    note(f"Use them as --encoders imported:{done.card.name}. None of what its card says is verified.")


def _tell_unreadable(folders: Sequence[Path]) -> None:
    for path in folders:
        note(f"  {path} has no readable card.json: nobody can tell whose embeddings these are. Remove the folder.")


def _tell_compared(compared: "Sequence[Recomputed]") -> None:
    for each in compared:
        who = f"{each.encoder} ({each.precision})"
        if each.skipped:
            note(f"{who}: not recomputed, {each.skipped}.")
            continue
        note(
            f"{who}: {each.rows} of {each.candidates} embeddings recomputed, {len(each.differing)} differ; "
            f"least cosine {each.cosine:.6f}, largest difference {each.difference:.1e} of the row's largest value."
        )
        if each.differing:
            named = ", ".join(each.differing[:5])
            note(f"  {who} differs for {named}{' ...' if len(each.differing) > 5 else ''}")
            note(f"  To compute all of its embeddings anew, remove the folder {each.fingerprint} of the store.")
