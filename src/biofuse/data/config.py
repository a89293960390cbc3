"""How data are read: which column is what, what is left out, and how pixels are decoded."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field

from biofuse.core.errors import BioFuseError, DataError, option
from biofuse.core.options import Option, Options
from biofuse.core.target import Task
from biofuse.data.windows import WINDOWS, window_text

if TYPE_CHECKING:
    from biofuse.data.decoding import DecodePolicy

UNGROUPED = "none"
"""The group of data that are meant to have none."""
EACH, ALL = "each", "all"
"""Channels, and pages, that are the images of a sample, every one."""

FOLDER = "folder"
"""The bag of images that lie in one folder."""

IDENTIFIERS = ("patient", "study", "series")
"""What files of hospitals say they belong to; a bag or a group where no column is called so."""

KEPT_TOGETHER = (FOLDER, *IDENTIFIERS)
"""Words for bags of images that no table names."""


def _several(value: Any) -> Any:
    """Read one text as a table of one."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _times(value: Any) -> Any:
    """Read one number as a table of one."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple | set) else (value,)


def _table(value: Any) -> Any:
    """Read a class table, which may be written as one text with commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return None if value is None else tuple(map(str, value))


def _names(value: Any) -> Any:
    """Read names or numbers, which may be written as one text with commas."""
    parts = value if isinstance(value, list | tuple) else () if value is None else (value,)
    return tuple(name.strip() for part in parts for name in str(part).split(",") if name.strip())


def _page(value: Any) -> Any:
    """Read the number of a page, or the word for all."""
    text = str(value).strip().lower()
    if text != ALL and not text.isdecimal():
        raise DataError(f"{option('page')} cannot be {value!r}.", remedy=f"Give a number, from 0, or {ALL}.")
    return ALL if text == ALL else int(text)


def _task(value: Any) -> Any:
    if value not in {None, *Task}:
        raise DataError(f"There is no task {value!r}.", remedy=f"Choose one of {', '.join(Task)}.")
    return None if value is None else str(value)


SLICES = re.compile(r"all|[1-9]\d*|every:[1-9]\d*|at:\d+%?(,\d+%?)*")
"""How slices are chosen."""


def _slices(value: Any) -> Any:
    """Read how slices are chosen: a number, or text."""
    text = str(value).replace(" ", "")
    if not SLICES.fullmatch(text):
        raise DataError(
            f"{option('slices')} cannot be {str(value)!r}.",
            remedy="Give a number of slices, all, every:4, at:90 or at:50%.",
        )
    return text


def _home(value: Any) -> Any:
    """Read a folder of this machine, or the address of one on another."""
    if value is None or (isinstance(value, str) and "://" in value):
        return value
    return Path(value).expanduser()


def _suffix(value: Any) -> Any:
    """Read a suffix with or without its dot."""
    return f".{value.strip().lstrip('.')}".rstrip(".") or None if isinstance(value, str) else value


class DataConfig(Options):
    """How data are read.

    Everything that takes data takes these as ``config=DataConfig(...)``, or by name, or both: names win. The same
    options are those of every command that reads data, and a run remembers those it was fitted with.

    Examples
    --------
    >>> from biofuse import DataConfig
    >>> DataConfig(label="finding", group="patient").label
    ('finding',)
    >>> DataConfig(lable="finding")
    Traceback (most recent call last):
    ...
    biofuse.core.errors.DataError: ...
    """

    _refusal: ClassVar[type[BioFuseError]] = DataError

    label: Annotated[
        tuple[str, ...], BeforeValidator(_several), Option(panel="Data", metavar="COLUMN", several=True)
    ] = Field(
        default=(),
        description="Column of the labels of a table. Several, or names with commas between them: columns of zeros and "
        "ones, a multi-label task.",
        examples=["diagnosis"],
    )
    time: Annotated[str | None, Option(panel="Data", metavar="COLUMN")] = Field(
        default=None,
        description="Column of the time to an event, or to the end of the observation; with `event`, instead of "
        "`label`.",
        examples=["months"],
    )
    event: Annotated[str | None, Option(panel="Data", metavar="COLUMN")] = Field(
        default=None,
        description="Column that says whether the event happened then (1) or had not happened yet (0).",
        examples=["died"],
    )
    horizon: Annotated[
        tuple[float, ...], BeforeValidator(_times), Option(panel="Data", metavar="TIME", several=True)
    ] = Field(
        default=(),
        description="Time by which the risk of the event is predicted, in the unit of `time`. May be given again; by "
        "default the quartiles of the times of events.",
        examples=[365],
    )
    group: Annotated[str | None, Option(panel="Data", metavar="COLUMN|none")] = Field(
        default=None,
        description="Column of patients, slides or the like, whose samples stay together. none: there are none.",
        examples=["patient"],
    )
    bag: Annotated[str | None, Option(panel="Data", metavar="COLUMN|folder")] = Field(
        default=None,
        description="Column by which several images are one sample: those of a patient, of a lesion. folder: those "
        "that lie in one folder. Volumes and slides are such samples by themselves.",
        examples=["patient"],
    )
    by: Annotated[tuple[str, ...], BeforeValidator(_several), Option(panel="Data", metavar="COLUMN", several=True)] = (
        Field(
            default=(),
            description="Column for whose values test scores are also given one by one: sex, age, scanner. May be "
            "given again. Nothing is learned from it.",
            examples=["sex"],
        )
    )
    site: Annotated[str | None, Option(panel="Data", metavar="COLUMN")] = Field(
        default=None,
        description="Column of hospitals, scanners or the like: as `by`, and it is measured how much of each embedding "
        "is the site.",
        examples=["hospital"],
    )
    weight: Annotated[str | None, Option(panel="Data", metavar="COLUMN")] = Field(
        default=None,
        description="Column of positive numbers: how much each sample counts where something is fitted; only their "
        "ratios matter. Scores count all samples alike, and samples of split test need none.",
        examples=["inverse_sampling_rate"],
    )
    path: Annotated[str | None, Option(panel="Data", metavar="COLUMN")] = Field(
        default=None, description="Column of image paths or names.", examples=["image_id"]
    )
    root: Annotated[Path | str | None, BeforeValidator(_home), Option(panel="Data", metavar="FOLDER")] = Field(
        default=None,
        description="What relative paths are relative to, be it an address (s3://bucket/images); by default the folder "
        "of the table.",
        examples=["train"],
    )
    extension: Annotated[str | None, BeforeValidator(_suffix), Option(panel="Data", metavar="SUFFIX")] = Field(
        default=None, description="What names in the path column lack.", examples=[".jpg"]
    )
    task: Annotated[
        Literal["binary", "multiclass", "multilabel", "ordinal", "value", "survival"] | None,
        BeforeValidator(_task),
        Option(panel="Data"),
    ] = Field(
        default=None,
        description="What is learned; inferred by default. ordinal and value must be said; survival follows from "
        "`time` and `event`.",
    )
    positive: Annotated[str | None, Option(panel="Data", metavar="CLASS")] = Field(
        default=None,
        description="Of two classes the one that is looked for.",
        examples=["malignant"],
    )
    split: Annotated[str | None, Option(panel="Data", metavar="COLUMN")] = Field(
        default=None, description="Column of the splits: train, val, test, or words for them."
    )
    allow_remote: Annotated[bool, Option(panel="Data")] = Field(
        default=False,
        description="Fetch images that a table or a list names by address: https://, http://, s3:// or gs://. A fitted "
        "model does not remember it.",
    )
    use_splits: Annotated[bool, Option(panel="Data", off="--no-splits")] = Field(
        default=True,
        description="Splits that come with the data count. Otherwise they are passed over, and a folder called test "
        "is a class like any other.",
    )
    exclude: Annotated[
        tuple[str, ...], BeforeValidator(_several), Option(panel="Data", metavar="PATTERN", several=True)
    ] = Field(
        default=(),
        description="Shell pattern of file names, or of paths below the data, to leave out.",
        examples=["*_mask*"],
    )
    id: Annotated[str | None, Option(panel="Advanced", metavar="COLUMN")] = Field(
        default=None, description="Column of unique names; by default paths, or row numbers, are."
    )
    label_separator: Annotated[str | None, Option(panel="Advanced", metavar="TEXT")] = Field(
        default=None, min_length=1, description="What stands between several labels in one cell.", examples=["|"]
    )
    blank_as: Annotated[str | None, Option(panel="Advanced", metavar="TEXT")] = Field(
        default=None,
        description="What a blank cell of a label column stands for: 0 means absent. By default nothing is known of "
        "that label of that sample.",
        examples=["0"],
    )
    uncertain_as: Annotated[Literal["ignore", "zeros", "ones"], Option(panel="Advanced")] = Field(
        default="ignore",
        description="What -1 in a column of zeros and ones stands for, as in CheXpert's table: nothing known, absent "
        "or present.",
    )
    on_missing: Annotated[Literal["error", "drop"], Option(panel="Advanced")] = Field(
        default="error", description="What happens with samples that have no label: an error, or they are left out."
    )
    classes: Annotated[
        tuple[str, ...] | None, BeforeValidator(_table), Option(panel="Advanced", metavar="NAMES", several=True)
    ] = Field(
        default=None,
        description="The class table, in its order; one text with commas, or one option per class.",
        examples=["none,mild,severe"],
    )
    drop_classes_below: Annotated[int | None, Option(panel="Advanced", metavar="N")] = Field(
        default=None, ge=1, description="Leave out the samples of classes with fewer."
    )
    page: Annotated[int | Literal["all"], BeforeValidator(_page), Option(panel="Advanced", metavar="N|all")] = Field(
        default=0,
        description="Which page of a file with several is read, from 0. all: every one of a TIFF or GIF file, as the "
        "images of one sample.",
    )
    channels: Annotated[
        tuple[str, ...], BeforeValidator(_names), Option(panel="Advanced", metavar="CHANNELS", several=True)
    ] = Field(
        default=(),
        max_length=3,
        description="Which channels of a microscope's images become red, green and blue: one to three numbers, from 0, "
        "or the names that the files give them. each: every channel by itself, as the images of one sample.",
        examples=["0,1,2"],
    )
    sixteen_bit: Annotated[Literal["minmax", "full", "percentile"], Option(panel="Advanced")] = Field(
        default="minmax",
        description="How grey images of more than 8 bits become 8-bit. minmax: from each image's darkest to its "
        "brightest value; full: from the least to the largest value of their type; percentile: by one window for all "
        "images, from the 0.1st to the 99.9th percentile of the development data.",
    )
    draft: Annotated[int | None, Option(panel="Advanced", metavar="PIXELS")] = Field(
        default=None,
        ge=1,
        description="Decode JPEG files at a half, a quarter or an eighth of their size, the smallest whose shorter "
        "side has at least so many pixels: sooner, and the embeddings are others. By default they are decoded whole.",
        examples=[512],
    )
    mpp: Annotated[float | None, Option(panel="Data", metavar="MICROMETRES", shown="0.5")] = Field(
        default=None,
        gt=0,
        description="Micrometres per pixel at which slides are cut into tiles: 0.5 is an objective of 20. Where it is "
        "said, plain images (PNG, JPEG, TIFF) are cut into tiles too.",
        examples=[0.5],
    )
    tiles: Annotated[int, Option(panel="Data")] = Field(
        default=256, ge=1, description="Most tiles of a slide that are embedded, drawn by a hash of their positions."
    )
    tile_size: Annotated[int, Option(panel="Advanced", metavar="PIXELS")] = Field(
        default=224,
        ge=16,
        description="Side of a tile; every encoder resizes it to what its card says. Most encoders of pathology take "
        "224.",
    )
    min_tissue: Annotated[float, Option(panel="Advanced", metavar="SHARE")] = Field(
        default=0.5, ge=0, le=1, description="Least share of a tile that must be tissue; 0 takes the background too."
    )
    file_mpp: Annotated[float | None, Option(panel="Advanced", metavar="MICROMETRES")] = Field(
        default=None,
        gt=0,
        description="Micrometres per pixel of slides and images that do not say it.",
        examples=[0.25],
    )

    allow_private: Annotated[bool, Option(panel="Advanced")] = Field(
        default=False,
        description="With `allow_remote`, fetch from web servers of this machine and of private networks, too.",
    )
    remote_cache: Annotated[float, Option(panel="Advanced", metavar="GB")] = Field(
        default=20.0,
        gt=0,
        description="Gigabytes that copies of fetched images may take on this machine; the longest unread make way.",
    )
    window: Annotated[str | None, BeforeValidator(window_text), Option(panel="Data", metavar="CENTRE,WIDTH|NAME")] = (
        Field(
            default=None,
            description="Which grey values of DICOM files and volumes are shown, in the unit that was measured: centre "
            f"and width, or those of CT by name: {', '.join(WINDOWS)}. percentiles: from the 0.5th to the 99.5th. By "
            "default the file's own first window, else percentiles.",
            examples=["lung"],
        )
    )
    axis: Annotated[Literal["auto", "axial", "coronal", "sagittal"], Option(panel="Advanced")] = Field(
        default="auto",
        description="Of volumes: which slices are looked at. auto: those that lie farthest apart; axial ones where the "
        "spacing is the same everywhere.",
    )
    slices: Annotated[str, BeforeValidator(_slices), Option(panel="Advanced", metavar="N|all|every:N|at:N")] = Field(
        default="32",
        description="Of volumes, and of DICOM files of several frames: how many slices, evenly spaced; or all, every:4 "
        "(every fourth), at:90 (that one, counted from 0) or at:25%,50% (so far along). Empty slices of NIfTI volumes "
        "are passed over.",
        examples=["every:4"],
    )

    def label_columns(self, columns: Collection[str]) -> tuple[str, ...]:
        """Return the label columns asked for; ``a,b`` names two where no column of a table is called that."""
        parts = [[name] if name in columns else [part.strip() for part in name.split(",")] for name in self.label]
        return tuple(part for each in parts for part in each if part)

    @property
    def target(self) -> Task | None:
        """What is learned, where it was said."""
        if self.task is None and (self.time is not None or self.event is not None):
            return Task.SURVIVAL
        return None if self.task is None else Task(self.task)

    @property
    def group_column(self) -> str | None:
        """The column of groups that was asked for."""
        return None if self.ungrouped else self.group

    @property
    def bag_column(self) -> str | None:
        """The column of bags that was asked for."""
        return None if self.bag in KEPT_TOGETHER else self.bag

    @property
    def ungrouped(self) -> bool:
        """Whether it was said that samples have no groups."""
        return self.group is not None and self.group.lower() == UNGROUPED

    @property
    def folder(self) -> Path | None:
        """The folder of this machine that paths are relative to, where one was named."""
        return self.root if isinstance(self.root, Path) else None

    @property
    def root_address(self) -> str | None:
        """The address of another machine that paths are relative to, where one was named."""
        return self.root if isinstance(self.root, str) else None

    @property
    def each_channel(self) -> bool:
        """Whether every channel is an image."""
        return self.channels == (EACH,)

    @property
    def all_pages(self) -> bool:
        """Whether every page is an image."""
        return self.page == ALL

    def decoding(self, otherwise: "DecodePolicy | None" = None) -> "DecodePolicy | None":
        """Return how pixels are decoded: as chosen here, and for the rest as ``otherwise`` says."""
        from biofuse.data.decoding import DecodePolicy

        names = {"page", "sixteen_bit", "channels", "draft"} & self.model_fields_set
        names -= {name for name, cut in {"channels": self.each_channel, "page": self.all_pages}.items() if cut}
        chosen: dict[str, Any] = {name: getattr(self, name) for name in names}
        return (otherwise or DecodePolicy()).model_copy(update=chosen) if chosen else otherwise

    def like(self, other: "DataConfig | None") -> tuple[Self, frozenset[str]]:
        """Return these options, for what they do not say those of data that were read before, and which these are."""
        if other is None:
            return self, frozenset()
        taken = (other.given & INHERITED) - self.given
        return self.but(**{name: getattr(other, name) for name in taken}), taken

    @property
    def given(self) -> frozenset[str]:
        """Names of the options that differ from their defaults."""
        fields = type(self).model_fields
        return frozenset(name for name in self.model_fields_set if getattr(self, name) != fields[name].default)


OF_SLIDES = ("mpp", "file_mpp", "tiles", "tile_size", "min_tissue")
"""How slides are cut into tiles."""

OF_VOLUMES = ("axis", "slices", "window")
"""Which slices of volumes are taken, and how they are shown."""

INHERITED = frozenset({
    "label", "time", "event", "group", "bag", "by", "site", "split", "id", "path", "extension", "label_separator",
    "blank_as", "uncertain_as", "on_missing", "exclude", "use_splits", "page", "sixteen_bit", "channels",
    "draft", *OF_SLIDES, *OF_VOLUMES,
})  # fmt: skip
"""What holds of other data that are read like these: not where they lie, nor what is fitted on them."""

OF_IMAGES = frozenset({"path", "id", "extension", "exclude", "bag", "channels", "page", *OF_SLIDES, *OF_VOLUMES})
"""What of it a fitted model remembers, for images without labels."""

COLUMNS = ("label", "time", "event", "group", "bag", "by", "site", "split", "id", "path")
"""Options that name columns."""


def named(options: Iterable[str]) -> str:
    """Write names of options for a message, in the words of who reads it."""
    return ", ".join(option(name, False) if name == "use_splits" else option(name) for name in sorted(options))
