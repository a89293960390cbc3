"""``biofuse demo``."""

from pathlib import Path
from typing import Annotated

import typer

from biofuse.cli import options
from biofuse.cli.console import errors, note
from biofuse.cli.embed import tell_work
from biofuse.cli.report import report_beside
from biofuse.cli.show import show_evaluation, show_fit


def demo(
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where to put the data set, the run and the pictures.")
    ] = Path("biofuse-demo"),
    store: options.Store = None,
) -> None:
    """Run everything on a real data set: embed, search, evaluate, predict, draw.

    The data set is made of 1,280 patches of a brain template; the task is to name the region. A second run reuses
    what the first one computed.

    [bold]Examples[/bold]

      biofuse demo --out demo-run
    """
    from biofuse.benchmark.demo import run_demo
    from biofuse.extract.progress import progress_bars

    with progress_bars(unit="images", console=errors) as bars:
        outcome = run_demo(out, store=store, progress=bars, tell=note)
    tell_work(outcome.result.embeddings)
    if outcome.result.reused:
        note("No fit had to be computed: the run was complete.")
    show_fit(outcome.result)
    show_evaluation(outcome.evaluation)
    if outcome.result.path is not None:
        report_beside(outcome.result.path, store)
    for path in outcome.pictures:
        note(f"Picture: {path}")
    note(f"The run is in {outcome.result.path}; try `biofuse predict {outcome.result.path} IMAGES --out p.csv`.")
