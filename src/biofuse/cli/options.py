"""Options that several commands share, written once."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

DATA_PANEL = "Data"
RUN_PANEL = "How to run"

Data = Annotated[
    str,
    typer.Argument(
        help="A folder of class folders, a manifest (.csv, .tsv, .parquet), a MedMNIST .npz file or name.",
        show_default=False,
    ),
]
Label = Annotated[
    list[str] | None,
    typer.Option("--label", help="Label column of a manifest; repeat for multi-label.", rich_help_panel=DATA_PANEL),
]
Group = Annotated[
    str | None,
    typer.Option("--group", help="Column whose values stay together: patient, slide, ...", rich_help_panel=DATA_PANEL),
]
TaskName = Annotated[
    Literal["binary", "multiclass", "multilabel", "ordinal"] | None,
    typer.Option("--task", help="What is learned; inferred by default.", rich_help_panel=DATA_PANEL),
]
Encoders = Annotated[
    str, typer.Option("--encoders", "-e", help="Names or aliases, separated by commas; see `biofuse encoders list`.")
]
OnError = Annotated[
    Literal["error", "quarantine"],
    typer.Option(
        "--on-error", help="error: stop at an unreadable image; quarantine: set it aside.", rich_help_panel=DATA_PANEL
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda, cuda:1, mps; cuda:0,cuda:1: a process for each. auto takes all CUDA devices.",
        rich_help_panel=RUN_PANEL,
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="Run on this machine, or on a Ray cluster.", rich_help_panel=RUN_PANEL),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="The cluster for --engine ray: HOST:PORT or auto. By default Ray is started on this machine.",
        envvar="RAY_ADDRESS",
        rich_help_panel=RUN_PANEL,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(
        "--precision",
        help="What networks compute in. auto: what the store has, else what each encoder's card advises and the device "
        "has. A lower precision is compared with fp32 on your images first.",
        rich_help_panel=RUN_PANEL,
    ),
]


def _batch_size(value: str | int) -> int | None:
    """Read ``auto`` or a whole number from 1."""
    if value == "auto":
        return None
    if str(value).isdecimal() and int(value) >= 1:
        return int(value)
    raise typer.BadParameter(f"{value!r} is neither 'auto' nor a whole number from 1.")


BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        parser=_batch_size,
        metavar="N|auto",
        help="Images per forward pass; auto: what fits. Halved when memory runs out.",
        show_default="auto",
        rich_help_panel=RUN_PANEL,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Decode processes; 0: none. By default by cores.", rich_help_panel=RUN_PANEL),
]
WeightsDir = Annotated[
    Path | None,
    typer.Option(
        "--weights-dir",
        help="Folder with weight files: <encoder>/<file on its card>.",
        envvar="BIOFUSE_WEIGHTS_DIR",
        rich_help_panel=RUN_PANEL,
    ),
]
OnUnavailable = Annotated[
    Literal["error", "skip"],
    typer.Option(
        "--on-unavailable",
        help="error: stop at an encoder that cannot be run here; skip: leave it out, and say so.",
        rich_help_panel=RUN_PANEL,
    ),
]
AllowRandomWeights = Annotated[
    bool,
    typer.Option(
        "--allow-random-weights",
        help="Let timm:NAME encoders have random weights, to try things out.",
        rich_help_panel=RUN_PANEL,
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store", help="Folder of the embedding store; by default in the user cache.", rich_help_panel=RUN_PANEL
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def label_option(columns: list[str] | None) -> Any:
    """One ``--label`` names a column; several make a multi-label task."""
    if not columns:
        return None
    return columns[0] if len(columns) == 1 else columns
