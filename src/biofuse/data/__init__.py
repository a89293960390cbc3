"""Data: from whatever a user has to one table of samples, with splits, folds, duplicates and a check.

``load_samples`` turns folders, tables, archives, arrays and other libraries' data sets into :class:`Samples`; images
are opened only when they are embedded or checked. Importing this package loads neither pandas, torch nor scikit-learn.
"""

from biofuse.data.check import CheckReport, check_samples
from biofuse.data.decoding import DecodePolicy, content_hash, decode, pixel_hash
from biofuse.data.duplicates import Conflict, DuplicateReport, Overlap, Repeats, find_duplicates, shared_content
from biofuse.data.load import describe_task, load_samples
from biofuse.data.medmnist import medmnist_catalogue, medmnist_file
from biofuse.data.samples import SPLITS, Samples, Source
from biofuse.data.sources import ArraySource, FileSource, ItemSource, MappedRowSource, PillowSource
from biofuse.data.splits import FoldPlan, make_folds, merge_groups, split_counts, with_splits
from biofuse.data.table import check_groups, groups_across_splits

__all__ = [
    "SPLITS",
    "ArraySource",
    "CheckReport",
    "Conflict",
    "DecodePolicy",
    "DuplicateReport",
    "FileSource",
    "FoldPlan",
    "ItemSource",
    "MappedRowSource",
    "Overlap",
    "PillowSource",
    "Repeats",
    "Samples",
    "Source",
    "check_groups",
    "check_samples",
    "content_hash",
    "decode",
    "describe_task",
    "find_duplicates",
    "groups_across_splits",
    "load_samples",
    "make_folds",
    "medmnist_catalogue",
    "medmnist_file",
    "merge_groups",
    "pixel_hash",
    "shared_content",
    "split_counts",
    "with_splits",
]
