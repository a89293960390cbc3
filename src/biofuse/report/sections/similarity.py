"""How similar the encoders are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks import Blocks
from biofuse.blocks.similarity import linear_cka
from biofuse.core.seeds import hash_order
from biofuse.report.content import Chart, Column, Heat, Section, Table, Tree
from biofuse.report.material import Material

COMPARED = 2000
"""Samples on which encoders are compared: enough for two decimals, few enough for a second."""


def similarity_section(material: Material) -> Section:
    """Compare encoders by linear CKA."""
    title = "Similarity of the encoders"
    embedded = material.extras.development
    if embedded is None:
        return Section(id="similarity", title=title, paragraphs=(material.extras.why,))
    blocks = _some(embedded.blocks, COMPARED)
    if len(blocks) < 2:
        return Section(id="similarity", title=title, paragraphs=("There is only one encoder.",))
    matrix = linear_cka(blocks)
    explained = (
        f"Linear CKA over {blocks.n_samples:,} development samples: 1 where two encoders arrange the samples alike, 0 "
        "where they have nothing in common. Encoders that are alike add little to one another."
    )
    said = [explained]
    if blocks.n_samples < max(blocks.dims.values()):
        said.append("With fewer samples than columns, as here, CKA comes out too high for the widest encoders.")
    return Section(id="similarity", title=title, paragraphs=tuple(said), items=(_similarity(blocks.encoders, matrix),))


def _some(blocks: Blocks, count: int) -> Blocks:
    if blocks.n_samples <= count:
        return blocks
    return blocks.take(np.sort(hash_order(blocks.ids.tolist(), seed=0)[:count]))


def _similarity(names: Sequence[str], matrix: NDArray[np.float64]) -> Chart:
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
    return Chart(
        id="similarity",
        title="Linear CKA between encoders",
        summary=summary,
        body=Heat(
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
        table=Table(
            id="similarity-data",
            caption="Linear CKA of every pair of encoders, the most similar first",
            columns=(Column(title="first"), Column(title="second"), Column(title="linear CKA", number=True)),
            rows=tuple((names[i], names[j], float(matrix[i, j])) for i, j in pairs),
        ),
    )


def _tree(matrix: NDArray[np.float64]) -> tuple[Tree | None, list[int]]:
    """Join encoders by the mean of one minus their CKA."""
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    if np.isnan(matrix).any():
        return None, list(range(len(matrix)))
    distance = 1 - (matrix + matrix.T) / 2
    np.fill_diagonal(distance, 0)
    drawn = dendrogram(linkage(squareform(distance.clip(0), checks=False), "average"), no_plot=True)
    tree = Tree(x=tuple(map(tuple, drawn["icoord"])), height=tuple(map(tuple, drawn["dcoord"])))
    return tree, [int(leaf) for leaf in drawn["leaves"] or ()]
