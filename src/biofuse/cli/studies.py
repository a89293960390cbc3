"""``biofuse demo`` and ``benchmark``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import biofuse
from biofuse.cli import options
from biofuse.cli.console import note, show_answer
from biofuse.cli.embed import tell_work
from biofuse.cli.fit import evaluation_answer, show_evaluation, show_fit
from biofuse.cli.report import show_page
from biofuse.core.files import check_target, write_text
from biofuse.core.options import divide
from biofuse.core.progress import progress_bars
from biofuse.data.config import DataConfig
from biofuse.encoders.registry import resolve
from biofuse.extract.options import ExtractOptions
from biofuse.search.config import STARTER, SearchConfig
from biofuse.store.store import EmbeddingStore

if TYPE_CHECKING:
    from biofuse.report.html import TablePage


@options.offers(SearchConfig, ExtractOptions)
def demo(
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where to put the data set, the run and the pictures.")
    ] = Path("biofuse-demo"),
    store: options.Store = None,
    **chosen: Any,
) -> None:
    """Run everything on a real data set: embed, search, evaluate, predict, draw.

    The data set is made of 1,080 patches of a brain template; the task is to name the region. A second run reuses
    what the first one computed.

    [bold]Examples[/bold]

      biofuse demo --out demo-run
    """
    from biofuse.api.report import attempt_report
    from biofuse.studies.demo import run_demo

    with progress_bars(unit="images") as bars:
        outcome = run_demo(out, store=store, progress=bars, tell=note, **chosen)
    tell_work(outcome.result.embeddings)
    if outcome.result.reused:
        note("No fit had to be computed: the run was complete.")
    show_fit(outcome.result)
    show_evaluation(outcome.evaluation)
    result = outcome.result
    if result.path is not None:  # opened anew: the evaluation was written after the fit had opened it
        attempt_report(result.path, tell=note, store=result.store, development=result.embeddings, test=result.held_out)
    for path in outcome.pictures:
        note(f"Picture: {path}")
    show_answer(evaluation_answer(outcome.evaluation, out if result.path is None else result.path))


PAGE = "benchmark.html"
DATA_COMMAND = "data"
HELP = frozenset({"--help", "-h"})


class _Benchmarks(TyperGroup):
    """``biofuse benchmark images/`` is ``biofuse benchmark data images/``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in HELP:
            args = [DATA_COMMAND, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Benchmarks,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Fit and evaluate on several data sets, and compare.

    [bold]Examples[/bold]

      biofuse benchmark medmnist breastmnist bloodmnist --size 28 --out benchmark

      biofuse benchmark imagenet --root imagenet --out benchmark

      biofuse benchmark blood/ brain/manifest.csv --out benchmark
    """,
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the runs, benchmark.json and benchmark.html.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace runs with other options in --out.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Start even what takes more than an hour.")]


@app.command("medmnist")
@options.offers(SearchConfig, ExtractOptions)
def medmnist(
    sets: Annotated[
        list[str] | None,
        typer.Argument(help="Such as breastmnist; by default the files in --root, or else all 12.", show_default=False),
    ] = None,
    *,
    out: Out,
    size: Annotated[int, typer.Option("--size", help="Pixels: 28, 64, 128 or 224.")] = 224,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            help=options.with_default("Folder of .npz files; missing sets that are named are fetched.", "~/.medmnist"),
        ),
    ] = None,
    store: options.Store = None,
    overwrite: Overwrite = False,
    yes: Yes = False,
    as_json: options.Json = False,
    **chosen: Any,
) -> None:
    """Fit and evaluate on the 12 two-dimensional MedMNIST+ sets, with published values beside.

    Official splits, and the accuracy and AUC of medmnist.Evaluator. Give the same command again to go on after a stop;
    sets that are finished are not run again. `--preset paper --encoders paper --size 224` is the published protocol.

    [bold]Examples[/bold]

      biofuse benchmark medmnist breastmnist bloodmnist --size 28 --out benchmark

      biofuse benchmark medmnist --root medmnist-files --size 224 --out benchmark --yes

      biofuse benchmark medmnist --preset paper --encoders paper --out paper --yes
    """
    from biofuse.studies.suite import benchmark_medmnist

    check_target(out / PAGE)
    fuse = biofuse.BioFuse(store=store, **chosen)
    outcome = benchmark_medmnist(
        fuse, sets or (), out=out, size=size, root=root, overwrite=overwrite, yes=yes, tell=note
    )
    _deliver(outcome, out, as_json=as_json, failed=len(outcome.failed))


@app.command("imagenet")
@options.offers(ExtractOptions)
def imagenet(
    *,
    root: Annotated[Path, typer.Option("--root", help="Folder with train/<class>/ and val/<class>/ of images.")],
    out: Out,
    encoders: Annotated[
        str,
        typer.Option(
            "--encoders",
            "-e",
            help="Names or aliases, separated by commas; see `biofuse encoders list`.",
            autocompletion=options.complete_encoders,
        ),
    ] = STARTER,
    store: options.Store = None,
    as_json: options.Json = False,
    **chosen: Any,
) -> None:
    """Score single encoders and their fusion on ImageNet-1K, or on anything in its layout.

    A linear head for all classes (discriminant analysis) is fitted on the training images block by block, in bounded
    memory; top-1 and top-5 accuracy are those on the validation images. Embeddings that are in the store are not
    computed again, so a stopped benchmark goes on where it was.

    [bold]Examples[/bold]

      biofuse benchmark imagenet --root imagenet --out benchmark

      biofuse benchmark imagenet --root imagenet --encoders paper --device cuda --out benchmark
    """
    from biofuse.studies.imagenet import benchmark_imagenet

    check_target(out / PAGE)
    extraction = ExtractOptions(**chosen)
    outcome = benchmark_imagenet(
        resolve(encoders, allow_random_weights=extraction.allow_random_weights),
        root,
        store=EmbeddingStore(store),
        options=extraction,
        tell=note,
    )
    _deliver(outcome, out, as_json=as_json)


@app.command(DATA_COMMAND)
@options.offers(DataConfig, SearchConfig, ExtractOptions)
def data(
    sources: Annotated[
        list[str],
        typer.Argument(help="Folders, manifests, .npz files or MedMNIST names, as for `biofuse fit`.", metavar="DATA"),
    ],
    *,
    out: Out,
    store: options.Store = None,
    overwrite: Overwrite = False,
    yes: Yes = False,
    as_json: options.Json = False,
    **chosen: Any,
) -> None:
    """Fit and evaluate on data sets of your own with the same options, and compare; `data` may be left out.

    Every data set gets a run directory in --out. Of data without a test split, 25 % of the samples are set aside.

    [bold]Examples[/bold]

      biofuse benchmark data blood/ brain/ --out benchmark

      biofuse benchmark a/manifest.csv b/manifest.csv --label diagnosis --group patient --out benchmark
    """
    from biofuse.studies.suite import benchmark_data

    check_target(out / PAGE)
    reading, searching, embedding = divide(chosen, DataConfig, SearchConfig, ExtractOptions)
    fuse = biofuse.BioFuse(store=store, **searching, **embedding)
    outcome = benchmark_data(
        fuse, sources, out=out, config=DataConfig(**reading), overwrite=overwrite, yes=yes, tell=note
    )
    _deliver(outcome, out, as_json=as_json, failed=len(outcome.failed))


def _deliver(outcome: "TablePage", out: Path, *, as_json: bool, failed: int = 0) -> None:
    """Write JSON and page, print the tables, and fail where a data set could not be run."""
    write_text(out / "benchmark.json", json.dumps(outcome.to_json(), indent=2, allow_nan=False) + "\n")
    write_text(out / PAGE, outcome.to_html())
    show_page(outcome, as_json=as_json)
    note(f"Written to {out / PAGE} and {out / 'benchmark.json'}.")
    if failed:
        note(f"{failed} data set{'s' if failed > 1 else ''} could not be run; give the same command again to try them.")
        raise typer.Exit(1)
