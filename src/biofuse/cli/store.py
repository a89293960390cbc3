"""``biofuse store``."""

from typing import Annotated

import typer

from biofuse.cli.console import human_bytes, note, show_json, show_table
from biofuse.cli.options import Json, Store

app = typer.Typer(no_args_is_help=True, help="The embeddings kept on disk: list, verify, clean.")


@app.command("ls")
def ls(*, store: Store = None, as_json: Json = False) -> None:
    """List the encoders that have embeddings in the store.

    [bold]Examples[/bold]

      biofuse store ls
    """
    from biofuse.store import EmbeddingStore, list_store

    chosen = EmbeddingStore(store)
    entries = list_store(chosen)
    if as_json:
        show_json(entries)
        return
    rows = [(e.encoder, e.embeddings, e.dim, e.precision, e.parts, e.broken, human_bytes(e.bytes)) for e in entries]
    columns = ("encoder", "embeddings", "columns", "precision", "parts", "broken", "size")
    show_table(str(chosen.root), columns, rows, numbers=("embeddings", "columns", "parts", "broken", "size"))


@app.command("verify")
def verify(*, store: Store = None, as_json: Json = False) -> None:
    """Hash every part and compare with its name; damaged parts are set aside and computed again by the next run.

    Exits with 1 if a part is damaged.

    [bold]Examples[/bold]

      biofuse store verify
    """
    from biofuse.store import EmbeddingStore, verify_store

    found = verify_store(EmbeddingStore(store))
    broken = [path for entry in found for path in entry.broken]
    if as_json:
        show_json(found)
    else:
        note(f"{sum(entry.parts for entry in found)} parts of {len(found)} encoders verified, {len(broken)} damaged.")
        for path in broken:
            note(f"  damaged, set aside: {path}")
        if broken:
            note("Run `biofuse embed` again to compute their rows anew, then `biofuse store gc` to remove the files.")
    if broken:
        raise typer.Exit(1)


@app.command("gc")
def gc(
    *,
    store: Store = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what nobody reads: damaged parts, leftovers of killed runs, parts whose rows all stand elsewhere.

    [bold]Examples[/bold]

      biofuse store gc --dry-run
    """
    from biofuse.store import EmbeddingStore, clean_store

    cleaning = clean_store(EmbeddingStore(store), dry_run=dry_run)
    if as_json:
        show_json(cleaning)
        return
    verb = "Would remove" if dry_run else "Removed"
    note(f"{verb} {len(cleaning.removed)} files, {human_bytes(cleaning.bytes)}.")
    for path in cleaning.removed:
        note(f"  {path}")
