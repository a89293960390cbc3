"""A map of the chosen fusion: the samples in two dimensions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, linear_cka
from biofuse.core.hashing import hash_order
from biofuse.core.target import Target
from biofuse.report import content
from biofuse.report.input import Embedded, ReportInput, make_thumbnails, name_of

MAPPED = 2000
"""Most points of the map."""

COLOURS = 8
"""Classes with a colour of their own; the others share one."""

OTHERS = "other classes"

UNLABELLED = "no label"
"""What multi-label samples are called that have none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """The samples that are drawn, those of development first.

    Attributes
    ----------
    parts, ids, labels, kinds : ndarray of object, shape (n,)
        A part is development, or the split that was tested; samples of a kind share a colour.
    place : ndarray of float64, shape (n, 2)
    tiles : ndarray of int64, shape (n,)
        Place of each thumbnail, -1 for none.
    """

    parts: NDArray[np.object_]
    ids: NDArray[np.object_]
    labels: NDArray[np.object_]
    kinds: NDArray[np.object_]
    place: NDArray[np.float64]
    tiles: NDArray[np.int64]


def map_section(given: ReportInput) -> content.Section:
    """Draw the samples in two dimensions of the chosen fusion: principal components, and UMAP where it is wanted."""
    title = "Map of the chosen fusion"
    development, test = given.development, given.test
    if development is None or development.blocks.n_samples < 3:
        return content.Section(id="map", title=title, paragraphs=(given.why,))
    split = "test" if given.evaluation is None else given.evaluation.split
    sources = {"development": development} | ({} if test is None else {split: test})
    images = dict(zip(sources, (given.development_images, given.test_images), strict=False))
    total = sum(source.blocks.n_samples for source in sources.values())
    drawn = _draw(sources)
    matrices = _standardised(drawn, given.chosen)
    place, shares = _project(matrices)
    grid, tiles = make_thumbnails([(images[part], sample) for part, own in drawn.items() for sample in own.blocks.ids])
    labels = [label for own in drawn.values() for label in own.labels]
    points = Points(
        parts=np.array([part for part, own in drawn.items() for _ in own.labels], dtype=object),
        ids=np.concatenate([own.blocks.ids for own in drawn.values()]),
        labels=np.array(labels, dtype=object),
        kinds=np.array(_kinds(given.record.target, labels), dtype=object),
        place=place,
        tiles=np.array(tiles, dtype=np.int64),
    )
    said, without = [], int((points.tiles < 0).sum())
    if without and grid is not None:
        said.append(f"{without:,} points have no image: it could not be read, or reading took too long.")
    elif grid is None:
        said.append("The images are not at hand, so points have no thumbnails.")
    axes = [f"component {number} ({share:.0%} of variance)" for number, share in zip((1, 2), shares, strict=True)]
    how = (
        f"Components of the development samples, which know no labels. They hold {shares[0]:.0%} and {shares[1]:.0%} "
        "of the variance: what overlaps here may be apart in the other dimensions."
    )
    common: dict[str, Any] = {"parts": tuple(drawn), "grid": grid, "total": total, "basis": _basis(given)}
    common["by"] = _coloured_by(given.record.target)
    charts = [_chart(points, "map", "Samples along two principal components", how, axes=axes, **common)]
    if given.umap and len(matrices[0]) > NEIGHBOURS:
        near = replace(points, place=_umap(matrices))
        charts.append(
            _chart(near, "umap", "Samples by UMAP", UMAP_SAYS, axes=["first dimension", "second dimension"], **common)
        )
    return content.Section(
        id="map", title=title, paragraphs=tuple(said), items=tuple(replace(c, wide=len(charts) == 1) for c in charts)
    )


QUARTERS = ("lowest quarter", "second quarter", "third quarter", "highest quarter")


def _kinds(target: Target, labels: Sequence[str]) -> list[str]:
    """Return what each sample is coloured by: its class, its quarter of the values, or when the event came."""
    if target.categorical:
        return list(labels)
    numbers = target.numbers(labels)
    if target.measured:
        values = target.columns(numbers)[:, 0]
        quarter = np.searchsorted(np.quantile(values, (0.25, 0.5, 0.75)), values)
        return [QUARTERS[place] for place in quarter.tolist()]
    by = [*target.classes, "later"]
    first = np.searchsorted(target.horizons, numbers[:, 0])
    return [f"event {by[place]}" if seen else "no event seen" for place, seen in zip(first, numbers[:, 1], strict=True)]


def _coloured_by(target: Target) -> str:
    if target.timed:
        return "the first horizon by which the event came"
    return f"the quarter of {target.classes[0]} it lies in" if target.measured else "class"


def _basis(given: ReportInput) -> str:
    return f"embeddings of {name_of(given.chosen, len(given.pool))}, standardised columns, no head"


NEIGHBOURS = 15
"""Of each sample that UMAP keeps near it: the default of umap-learn."""

UMAP_SAYS = (
    f"The {NEIGHBOURS} nearest samples of each stay near it (McInnes, Healy and Melville 2018); distances between "
    "clusters, and their sizes, say nothing. It is fitted on all samples that are shown, without their labels."
)


def _umap(matrices: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return where UMAP puts the points of all parts."""
    from sklearn.decomposition import PCA
    from umap import UMAP

    everything = np.concatenate(matrices)
    # Of many columns the first fifty components, as is usual: neighbours are then found quickly.
    width = min(50, *everything.shape)
    reduced = PCA(width, svd_solver="randomized", random_state=0).fit_transform(everything)
    place = UMAP(n_neighbors=NEIGHBOURS, random_state=0, n_jobs=1).fit_transform(reduced)
    return np.asarray(place, dtype=np.float64)


def _draw(sources: dict[str, Embedded]) -> dict[str, Embedded]:
    """Keep at most :data:`MAPPED` samples, the same whatever their order."""
    keys = [(name, row) for name, source in sources.items() for row in range(source.blocks.n_samples)]
    order = hash_order([f"{name}:{sources[name].blocks.ids[row]}" for name, row in keys], seed=0)[:MAPPED]
    drawn = {}
    for name, source in sources.items():
        rows = [keys[key][1] for key in order if keys[key][0] == name]
        drawn[name] = Embedded(
            blocks=source.blocks.take(np.array(rows, dtype=np.int64)), labels=tuple(source.labels[row] for row in rows)
        )
    return drawn


def _standardised(sources: dict[str, Embedded], encoders: Sequence[str]) -> list[NDArray[np.float64]]:
    """Return the columns of all parts, as standard deviations of the development samples from their mean."""
    from sklearn.preprocessing import StandardScaler

    matrices = [
        np.concatenate([source.blocks[name] for name in encoders], axis=1).astype(np.float64)
        for source in sources.values()
    ]
    scaler = StandardScaler().fit(matrices[0])
    return [scaler.transform(matrix) for matrix in matrices]


def _project(matrices: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Return where the points of all parts are, and the share of the variance that both components hold."""
    from sklearn.decomposition import PCA

    width = min(2, matrices[0].shape[1])
    pca = PCA(width, svd_solver="randomized", random_state=0).fit(matrices[0])
    places = np.concatenate([pca.transform(matrix) for matrix in matrices])
    shares = [*np.nan_to_num(pca.explained_variance_ratio_).tolist(), 0.0][:2]
    if width == 1:
        places = np.hstack([places, np.zeros_like(places)])
    return places, (shares[0], shares[1])


def _chart(
    points: Points,
    name: str,
    title: str,
    how: str,
    *,
    axes: Sequence[str],
    parts: Sequence[str],
    grid: content.ThumbnailGrid | None,
    total: int,
    basis: str,
    by: str,
) -> content.Chart:
    counts = Counter(points.kinds.tolist())
    frequent = [each for each, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COLOURS]]
    several = len(parts) > 1
    groups = []
    for colour, label in enumerate([*frequent, OTHERS] if len(counts) > COLOURS else frequent):
        own = points.kinds == label if label in frequent else ~np.isin(points.kinds, frequent)
        for part in parts:
            rows = np.flatnonzero(own & (points.parts == part))
            if len(rows):
                group = content.PointGroup(
                    name=label or UNLABELLED,
                    x=points.place[rows, 0],
                    y=points.place[rows, 1],
                    texts=tuple(f"{points.ids[row]}: {points.labels[row]} ({part})" for row in rows),
                    tiles=None if grid is None else tuple(points.tiles[rows].tolist()),
                    hollow=several and part == "development",
                    colour=colour,
                )
                groups.append(group)
    tested = {group.colour for group in groups if not group.hollow}
    shown = len(points.ids)
    return content.Chart(
        id=name,
        title=title,
        basis=basis,
        summary=f"{f'{shown:,} of' if shown < total else 'All'} {total:,} samples, coloured by {by}"
        f"{'; development samples are hollow' if several else ''}. {how} Point at a sample to see it, or focus the "
        "map and step through the samples with the arrow keys.",
        body=content.ScatterPlot(
            groups=tuple(replace(group, named=not group.hollow or group.colour not in tested) for group in groups),
            x_axis=axes[0],
            y_axis=axes[1],
            thumbnails=grid,
        ),
        table=_centres(groups, name),
    )


def _centres(groups: Sequence[content.PointGroup], name: str) -> content.Table:
    def spread(values: NDArray[np.float64]) -> tuple[float, float]:
        return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    return content.Table(
        id=f"{name}-data",
        caption="Where the points of each colour are: mean and standard deviation along both axes",
        columns=content.words("points")
        + content.numbers("number")
        + content.numbers("mean 1", "± 1", "mean 2", "± 2", decimals=2),
        rows=tuple(
            (group.name + (", development" if group.hollow else ""), len(group.x), *spread(group.x), *spread(group.y))
            for group in groups
        ),
    )


SQUARE = 12
"""Encoders or classes above which a heat map of them takes the width of the page."""

COMPARED = 2000
"""Samples on which encoders are compared: enough for two decimals, few enough for a second."""


def similarity_chart(given: ReportInput) -> content.Chart | None:
    """Compare encoders by linear CKA; None where there is only one, or their embeddings are not at hand."""
    if len(given.pool) < 2 or given.development is None:
        return None
    blocks = _some(given.development.blocks, COMPARED)
    said = (
        f"Over {blocks.n_samples:,} development samples: 1 where two encoders arrange them alike, and so add little to "
        "one another, 0 where they have nothing in common."
    )
    if blocks.n_samples < max(blocks.dims.values()):
        said += " With fewer samples than columns, as here, it comes out too high for the widest encoders."
    return _similarity(blocks.encoders, linear_cka(blocks), said)


def _some(blocks: Blocks, count: int) -> Blocks:
    if blocks.n_samples <= count:
        return blocks
    return blocks.take(np.sort(hash_order(blocks.ids.tolist(), seed=0)[:count]))


def _similarity(names: Sequence[str], matrix: NDArray[np.float64], said: str) -> content.Chart:
    tree, order = _tree(matrix)
    names = [names[index] for index in order]
    matrix = matrix[np.ix_(order, order)]
    pairs = sorted(
        ((i, j) for i in range(len(names)) for j in range(i + 1, len(names)) if not np.isnan(matrix[i, j])),
        key=lambda pair: -matrix[pair],
    )
    summary = said
    if pairs:
        (a, b), (c, d) = pairs[0], pairs[-1]
        summary = (
            f"{names[a]} and {names[b]} are most alike ({matrix[a, b]:.2f}), {names[c]} and {names[d]} least "
            f"({matrix[c, d]:.2f}). {said}"
        )
    return content.Chart(
        id="similarity",
        title="How alike the encoders are",
        basis="development embeddings, no head; pairs of encoders",
        wide=len(names) > SQUARE,
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
            columns=content.words("first", "second") + content.numbers("linear CKA"),
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
