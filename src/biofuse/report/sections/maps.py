"""A map of the chosen fusion: the samples in two dimensions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, linear_cka
from biofuse.core.hashing import hash_order
from biofuse.report import content
from biofuse.report.input import Embedded, ReportInput, SampleImages, make_thumbnails

MAPPED = 2000
"""Most points of the map."""

COLOURS = 8
"""Classes with a colour of their own; the others share one."""

OTHERS = "other classes"

UNLABELLED = "no label"
"""What multi-label samples are called that have none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MapPart:
    """Points of one part of the data.

    Attributes
    ----------
    name : str
        Development, or the split that was tested.
    ids, labels : tuple of str
    place : ndarray of float64, shape (n, 2)
    tiles : tuple of int
        Place of each thumbnail, -1 for none.
    """

    name: str
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    place: NDArray[np.float64]
    tiles: tuple[int, ...]


def map_section(given: ReportInput) -> content.Section:
    """Draw the samples where the first two principal components of the chosen fusion put them."""
    title = "Map of the chosen fusion"
    development, test = given.development, given.test
    if development is None or development.blocks.n_samples < 3:
        return content.Section(id="map", title=title, paragraphs=(given.why,))
    split = "test" if given.evaluation is None else given.evaluation.split
    sources = {"development": development} | ({} if test is None else {split: test})
    total = sum(source.blocks.n_samples for source in sources.values())
    drawn = _draw(sources)
    places, shares = _project(drawn, given.chosen)
    grid, tiles = _thumbnails(drawn, (given.development_images, given.test_images))
    parts = [
        MapPart(name=name, ids=tuple(source.blocks.ids.tolist()), labels=source.labels, place=place, tiles=own)
        for (name, source), place, own in zip(drawn.items(), places, tiles, strict=True)
    ]
    explained = (
        f"Each point is a sample, where the first two principal components of the standardised columns of "
        f"{' + '.join(given.chosen)} put it. They are the components of the development samples and know no labels; "
        f"they hold {shares[0]:.0%} and {shares[1]:.0%} of the variance, so that classes which overlap here may well "
        "be apart in the other dimensions."
    )
    said = [explained]
    without = sum(tile < 0 for part in parts for tile in part.tiles)
    if without and grid is not None:
        said.append(f"{without:,} points have no image: it could not be read, or reading took too long.")
    elif grid is None:
        said.append("The images are not at hand, so points have no thumbnails.")
    return content.Section(id="map", title=title, paragraphs=tuple(said), items=(_chart(parts, shares, grid, total),))


def _draw(sources: dict[str, Embedded]) -> dict[str, Embedded]:
    """Keep at most :data:`MAPPED` samples, the same whatever their order."""
    keys = [(name, row) for name, source in sources.items() for row in range(source.blocks.n_samples)]
    order = hash_order([f"{name}:{sources[name].blocks.ids[row]}" for name, row in keys], seed=0)[:MAPPED]
    kept: dict[str, list[int]] = {name: [] for name in sources}
    for key in order:
        name, row = keys[key]
        kept[name].append(row)
    return {
        name: Embedded(
            blocks=sources[name].blocks.take(np.array(rows, dtype=np.int64)),
            labels=tuple(sources[name].labels[row] for row in rows),
        )
        for name, rows in kept.items()
    }


def _project(
    sources: dict[str, Embedded], encoders: Sequence[str]
) -> tuple[list[NDArray[np.float64]], tuple[float, float]]:
    """Return where each part's points are, and the share of the variance that both components hold."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    own, *others = (_stack(source.blocks, encoders) for source in sources.values())
    width = min(2, own.shape[1])
    pipeline = make_pipeline(StandardScaler(), PCA(width, svd_solver="randomized", random_state=0)).fit(own)
    places = [pipeline.transform(matrix) for matrix in (own, *others)]
    shares = [*np.nan_to_num(pipeline[-1].explained_variance_ratio_).tolist(), 0.0][:2]
    if width == 1:
        places = [np.hstack([place, np.zeros_like(place)]) for place in places]
    return places, (shares[0], shares[1])


def _stack(blocks: Blocks, encoders: Sequence[str]) -> NDArray[np.float64]:
    return np.concatenate([blocks[name] for name in encoders], axis=1).astype(np.float64)


def _thumbnails(
    sources: dict[str, Embedded], albums: Sequence[SampleImages | None]
) -> tuple[content.ThumbnailGrid | None, list[tuple[int, ...]]]:
    wanted = [
        (images, str(sample))
        for source, images in zip(sources.values(), albums, strict=False)
        for sample in source.blocks.ids
    ]
    grid, tiles = make_thumbnails(wanted)
    ends = np.cumsum([source.blocks.n_samples for source in sources.values()])[:-1]
    return grid, [tuple(each.tolist()) for each in np.split(np.array(tiles, dtype=np.int64), ends)]


def _chart(
    parts: Sequence[MapPart], shares: tuple[float, float], grid: content.ThumbnailGrid | None, total: int
) -> content.Chart:
    counts = Counter(label for part in parts for label in part.labels)
    frequent = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COLOURS]]
    colours = [*frequent, OTHERS] if len(counts) > COLOURS else frequent
    groups = tuple(
        group
        for colour, name in enumerate(colours)
        for part in parts
        if (group := _group(part, name, frequent, colour=colour, several=len(parts) > 1, seen=grid is not None))
    )
    tested = {group.colour for group in groups if not group.hollow}
    groups = tuple(replace(group, named=not group.hollow or group.colour not in tested) for group in groups)
    shown = sum(counts.values())
    axes = [f"component {number} ({share:.0%} of variance)" for number, share in zip((1, 2), shares, strict=True)]
    return content.Chart(
        id="map",
        title="Samples along two principal components",
        summary=f"{f'{shown:,} of' if shown < total else 'All'} {total:,} samples, coloured by class"
        f"{'; development samples are hollow' if len(parts) > 1 else ''}. Point at a sample to see it, or focus the "
        "map and step through the samples with the arrow keys.",
        body=content.ScatterPlot(groups=groups, x_axis=axes[0], y_axis=axes[1], thumbnails=grid),
        table=_centres(groups),
    )


def _group(
    part: MapPart, name: str, frequent: Sequence[str], *, colour: int, several: bool, seen: bool
) -> content.PointGroup | None:
    rows = [
        row for row, label in enumerate(part.labels) if (label == name if name in frequent else label not in frequent)
    ]
    if not rows:
        return None
    return content.PointGroup(
        name=name or UNLABELLED,
        x=part.place[rows, 0],
        y=part.place[rows, 1],
        texts=tuple(f"{part.ids[row]}: {part.labels[row]} ({part.name})" for row in rows),
        tiles=tuple(part.tiles[row] for row in rows) if seen else None,
        hollow=several and part.name == "development",
        colour=colour,
    )


def _centres(groups: Sequence[content.PointGroup]) -> content.Table:
    def spread(values: NDArray[np.float64]) -> float:
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    return content.Table(
        id="map-data",
        caption="Where the points of each class are: mean and standard deviation along both components",
        columns=(
            *content.words("points"),
            *content.numbers("number"),
            *content.numbers("mean 1", "± 1", "mean 2", "± 2", decimals=2),
        ),
        rows=tuple(
            (
                group.name + (", development" if group.hollow else ""),
                len(group.x),
                float(group.x.mean()),
                spread(group.x),
                float(group.y.mean()),
                spread(group.y),
            )
            for group in groups
        ),
    )


COMPARED = 2000
"""Samples on which encoders are compared: enough for two decimals, few enough for a second."""


def similarity_section(given: ReportInput) -> content.Section:
    """Compare encoders by linear CKA."""
    title = "Similarity of the encoders"
    if given.development is None:
        return content.Section(id="similarity", title=title, paragraphs=(given.why,))
    blocks = _some(given.development.blocks, COMPARED)
    if len(blocks) < 2:
        return content.Section(id="similarity", title=title, paragraphs=("There is only one encoder.",))
    matrix = linear_cka(blocks)
    explained = (
        f"Linear CKA over {blocks.n_samples:,} development samples: 1 where two encoders arrange the samples alike, 0 "
        "where they have nothing in common. Encoders that are alike add little to one another."
    )
    said = [explained]
    if blocks.n_samples < max(blocks.dims.values()):
        said.append("With fewer samples than columns, as here, CKA comes out too high for the widest encoders.")
    return content.Section(
        id="similarity", title=title, paragraphs=tuple(said), items=(_similarity(blocks.encoders, matrix),)
    )


def _some(blocks: Blocks, count: int) -> Blocks:
    if blocks.n_samples <= count:
        return blocks
    return blocks.take(np.sort(hash_order(blocks.ids.tolist(), seed=0)[:count]))


def _similarity(names: Sequence[str], matrix: NDArray[np.float64]) -> content.Chart:
    tree, order = _tree(matrix)
    names = [names[index] for index in order]
    matrix = matrix[np.ix_(order, order)]
    pairs = sorted(
        ((i, j) for i in range(len(names)) for j in range(i + 1, len(names)) if not np.isnan(matrix[i, j])),
        key=lambda pair: -matrix[pair],
    )
    summary = "Encoders are in the order of the tree, which joins the most similar first."
    if pairs:
        (a, b), (c, d) = pairs[0], pairs[-1]
        summary = (
            f"{names[a]} and {names[b]} are most alike ({matrix[a, b]:.2f}), {names[c]} and {names[d]} least "
            f"({matrix[c, d]:.2f}). {summary}"
        )
    return content.Chart(
        id="similarity",
        title="Linear CKA between encoders",
        summary=summary,
        body=content.Heatmap(
            rows=tuple(names),
            columns=tuple(names),
            values=matrix,
            texts=tuple(tuple("" if np.isnan(value) else f"{value:.2f}" for value in row) for row in matrix),
            row_axis="",
            column_axis="",
            scale="linear CKA",
            limits=(0.0, 1.0),
            tree=tree,
        ),
        table=content.Table(
            id="similarity-data",
            caption="Linear CKA of every pair of encoders, the most similar first",
            columns=(*content.words("first", "second"), *content.numbers("linear CKA")),
            rows=tuple((names[i], names[j], float(matrix[i, j])) for i, j in pairs),
        ),
    )


def _tree(matrix: NDArray[np.float64]) -> tuple[content.Tree | None, list[int]]:
    """Join encoders by the mean of one minus their CKA."""
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    if np.isnan(matrix).any():
        return None, list(range(len(matrix)))
    distance = 1 - (matrix + matrix.T) / 2
    np.fill_diagonal(distance, 0)
    drawn = dendrogram(linkage(squareform(distance.clip(0), checks=False), "average"), no_plot=True)
    tree = content.Tree(x=tuple(map(tuple, drawn["icoord"])), height=tuple(map(tuple, drawn["dcoord"])))
    return tree, [int(leaf) for leaf in drawn["leaves"] or ()]
