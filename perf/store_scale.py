"""What does a store of many parts cost to look through? Ten million images of nine encoders, with made-up narrow rows.

``python perf/store_scale.py`` fills a store as an extraction does, in parts of 4,096 rows, and times what every command
does with it: listing, finding all hashes (in the order of the data and in another), finding one image, joining and
reading, ``gc`` and ``verify``. The hashes are as many as there would be; a row has ``--columns`` numbers instead of
hundreds, so that ten million fit on a disk, and the parts of the second encoder onwards are links to those of the
first. What depends on columns alone, reading and hashing bytes, is measured in bytes per second and applied to the
dimensions of the nine encoders of the paper. Prints one JSON object: for each step seconds, also processor time, and
the most memory that it took beyond what was held before.
"""

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import PeakMemory, Processor

from biofuse.blocks.blocks import BlockReader
from biofuse.core.hashing import CONTENT_BYTES, Contents, digest_bytes
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.encoders.registry import list_cards
from biofuse.store.parts import Part
from biofuse.store.store import PART_ROWS, EmbeddingStore, clean_store, list_store, verify_store

SMALL = 40
"""Small parts that are added, as runs leave them that find a few new images each."""

SMALL_ROWS = 16
ROOM = 1.2
"""Free disk that is asked for, in sizes of what is written."""


def made_up(number: int, columns: int) -> EncoderCard:
    return EncoderCard(
        name=f"made-up-{number}",
        title="Made up",
        loader="function",
        preprocessing=Preprocessing(resize="squash", size=8),
        output="descriptor",
        dim=columns,
        licence="CC0-1.0",
        modality="none",
        source="this benchmark",
    )


def fill(store: EmbeddingStore, cards: Sequence[EncoderCard], contents: Contents, *, part_rows: int) -> int:
    """Write the rows of the first encoder, and link those of the others; return the number of parts."""
    random = np.random.default_rng(0)
    folders = [store.open(card) for card in cards]
    paths = []
    for start in range(0, len(contents), part_rows):
        some = contents[start : start + part_rows]
        rows = random.standard_normal((len(some), cards[0].dim), dtype=np.float32)
        paths.append(folders[0].write(some, rows))
    for folder in folders[1:]:
        folder.path.mkdir(parents=True)
        folder.save_card(folder.card)
        for path in paths:
            (folder.path / path.name).hardlink_to(path)
    return len(paths)


def step(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Time a piece of work, with the most memory that it took."""
    gc.collect()
    before = PeakMemory().look()
    clock = Processor()
    with PeakMemory(every=0.5) as watched:
        found = work()
    return {
        "seconds": round(clock.wall, 2),
        "cpu_seconds": round(clock.cpu, 2),
        "gib": round(max(watched.peak - before, 0) / 2**30, 2),
    }, found


def measure(root: Path, cards: Sequence[EncoderCard], contents: Contents) -> dict[str, Any]:
    """Do what commands do, each with a store object of its own, as a new process has."""
    found: dict[str, Any] = {}
    shuffled = np.random.default_rng(1).permutation(len(contents))

    def opened() -> EmbeddingStore:
        return EmbeddingStore(root)

    found["list"], entries = step(lambda: list_store(opened()))
    if {entry.embeddings for entry in entries} != {len(contents)}:
        sys.exit("The listing does not count what was written.")
    store = opened()
    found["find_one_image_in_a_new_process"], _ = step(
        lambda: [store.open(card).missing(contents[:1]).any() for card in cards]
    )
    for name, row in (("find_a_second_image", -1), ("find_a_third_image", 1)):
        found[name], _ = step(lambda row=row: [store.open(card).missing(contents[[row]]).any() for card in cards])
    for name, wanted in (("find_all_in_order", contents), ("find_all_shuffled", contents[shuffled])):
        again = opened()
        found[name], absent = step(
            lambda wanted=wanted, store=again: sum(store.open(card).missing(wanted).sum() for card in cards)
        )
        if absent:
            sys.exit("Rows that were written were not found.")
    ids = np.array([f"s{row:09d}" for row in range(len(contents))], dtype=object)
    reader = BlockReader(store=store, cards=tuple(cards), ids=ids, contents=contents)
    found["join_on_shuffled_ids"], joined = step(lambda: reader.join(ids[shuffled]))
    found["read_first_65536_in_order"], _ = step(lambda: next(reader.iter_blocks()))
    found["read_first_65536_shuffled"], _ = step(lambda: next(joined.iter_blocks()))
    found["gc_dry_run"], _ = step(lambda: clean_store(opened(), dry_run=True))
    folder = opened().open(cards[0])
    random = np.random.default_rng(2)
    for _ in range(SMALL):
        some = np.frombuffer(random.bytes(CONTENT_BYTES * SMALL_ROWS), dtype=f"S{CONTENT_BYTES}")
        folder.write(some, random.standard_normal((SMALL_ROWS, folder.card.dim), dtype=np.float32))
    folder.write(contents[:SMALL_ROWS], np.zeros((SMALL_ROWS, folder.card.dim), dtype=np.float32))
    found["gc_with_small_parts"], cleaning = step(lambda: clean_store(opened()))
    found["gc_with_small_parts"] |= {"removed": len(cleaning.removed), "merged": cleaning.merged}
    found["verify"], checked = step(lambda: verify_store(opened()))
    found["verify"]["parts"] = sum(each.parts for each in checked)
    if any(each.broken for each in checked):
        sys.exit("Parts that nobody has changed were found broken.")
    return found


def hashing(folder: Path, *, columns: int, part_rows: int) -> tuple[float, float]:
    """Bytes per second at which parts of many columns are verified, from files in memory, and hashed alone."""
    rows = np.zeros((part_rows, columns), dtype=np.float32)
    contents = np.frombuffer(np.random.default_rng(3).bytes(CONTENT_BYTES * part_rows), dtype=f"S{CONTENT_BYTES}")
    path = Part.write(folder, contents, rows)
    data, seconds = path.read_bytes(), []
    for work in (lambda: Part.read(path, dim=columns, verify=True), lambda: digest_bytes(data)):
        clock = Processor()
        for _ in range(3):
            work()
        seconds.append(clock.cpu)
    return 3 * len(data) / seconds[0], 3 * len(data) / seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--encoders", type=int, default=9)
    parser.add_argument("--columns", type=int, default=2, help="of the made-up rows")
    parser.add_argument("--part-rows", type=int, default=PART_ROWS)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    options = parser.parse_args()
    cards = [made_up(number, options.columns) for number in range(options.encoders)]
    contents = np.frombuffer(np.random.default_rng(1).bytes(CONTENT_BYTES * options.images), dtype=f"S{CONTENT_BYTES}")
    paper = [card.dim for card in list_cards() if "paper" in card.pools]
    real = options.images * sum(4 * dim + CONTENT_BYTES for dim in paper)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        needed, free = ROOM * options.images * (4 * options.columns + CONTENT_BYTES), shutil.disk_usage(name).free
        if free < needed:
            sys.exit(f"{needed / 1e9:.0f} GB of free disk are needed, {free / 1e9:.0f} are there.")
        root = Path(name) / "store"
        load = os.getloadavg()[0]
        written, parts = step(lambda: fill(EmbeddingStore(root), cards, contents, part_rows=options.part_rows))
        steps = {"write": written} | measure(root, cards, contents)
        rate, alone = hashing(Path(name), columns=max(paper), part_rows=options.part_rows)
    found = {
        "images": options.images,
        "encoders": options.encoders,
        "columns": options.columns,
        "parts_of_each": parts,
        "load_before": load,
        "steps": steps,
        "with_the_dimensions_of_the_paper": {
            "columns": sum(paper),
            "terabytes": real / 1e12,
            "hashed_gb_per_second_of_one_core": rate / 1e9,
            "ratio_to_hashing_alone": rate / alone,
            "hours_to_hash_all_with_one_core": real / rate / 3600,
        },
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
