"""Distances as scikit-learn has them; one in a hundred like samples above the 99th percentile, and most others."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from biofuse.core.errors import AlignmentError, ArtifactError
from biofuse.evaluation.novelty import NEIGHBOURS, ROWS, Novelty, Projection, Unusual


def names(n, prefix="s"):
    return np.array([f"{prefix}{row:05d}" for row in range(n)], dtype=object)


def drawn(random, n, *, per_group=1, shift=0.0, filled=0.05):
    """Two blocks of other scales, one with columns that are nearly always zero, and groups whose rows are alike."""
    groups = np.repeat(np.arange(n // per_group), per_group)
    effect = random.normal(size=(n // per_group, 30))[groups] * (per_group > 1)
    wide = 100 * (random.normal(size=(n, 30)) + effect + shift)
    rare = random.normal(size=(n, 40)) * (random.random((n, 40)) < filled)
    return {"wide": wide.astype(np.float32), "rare": rare.astype(np.float32)}, names(n)[groups]


def test_distances_are_the_mean_over_the_nearest_of_other_groups():
    random = np.random.default_rng(0)
    known, groups = drawn(random, 40, per_group=4)  # ten groups: each is a fold
    found = Novelty.learn(known, ids=names(40), groups=groups)
    own = []
    for group in np.unique(groups):
        rest = {name: block[groups != group] for name, block in known.items()}
        projection = Projection.learn(rest)
        search = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(projection(rest))
        own += search.kneighbors(projection({name: block[groups == group] for name, block in known.items()}))[
            0
        ].tolist()
    assert found.distances == pytest.approx(np.sort(np.mean(own, axis=1)), rel=1e-5)
    new, _ = drawn(random, 50)
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(found.projection(known)).kneighbors(found.projection(new))[0]
    further = (found.distances[None, :] >= nearest.mean(axis=1)[:, None].astype(np.float32)).sum(axis=1)
    assert found.percentiles(new) == pytest.approx(100 * (1 - (1 + further) / 41))


def test_every_encoder_counts_the_same_and_distances_are_kept():
    random = np.random.default_rng(1)
    known, _ = drawn(random, 200)
    projection = Projection.learn(known)
    centre = {"wide": projection.mean[:30], "rare": projection.mean[30:]}
    squares = []
    for name in known:
        alone = {
            other: block if other == name else np.zeros_like(block) + centre[other] for other, block in known.items()
        }
        squares.append(float(np.square(projection(alone)).sum(axis=1).mean()))
    assert np.square(projection(known)).sum(axis=1).mean() == pytest.approx(sum(squares), rel=0.1)
    assert 0.7 < squares[0] / squares[1] < 1.4  # though one varies 1,000 times as much as the other


@pytest.mark.slow
@pytest.mark.parametrize(("per_group", "filled"), [(1, 0.05), (5, 0.05), (1, 0.01)])
def test_one_in_a_hundred_like_samples_is_unusual_and_most_others_are(per_group, filled):
    random = np.random.default_rng(2)
    like, unlike, surprised = [], [], []
    for _ in range(30):
        known, groups = drawn(random, 300, per_group=per_group, filled=filled)
        found = Novelty.learn(known, ids=names(300), groups=groups)
        new, new_groups = drawn(random, 200, per_group=per_group, filled=filled)
        values = found.percentiles(new)
        like.append((values > 99).mean())
        given = None if per_group == 1 else new_groups
        surprised.append(Unusual.of(values, known=found.n_units, groups=given).surprising)
        other = found.percentiles(drawn(random, 100, shift=6.0, filled=filled)[0])
        unlike.append((other > 99).mean())
        assert Unusual.of(other, known=found.n_units).surprising
    assert 0.005 < np.mean(like) < 0.014  # 0.01 within three standard errors
    assert np.mean(unlike) > 0.9
    assert np.mean(surprised) <= 0.15  # five in a hundred


def test_of_many_samples_few_thousand_are_kept_whatever_their_order():
    random = np.random.default_rng(3)
    known = {"a": random.normal(size=(ROWS + 500, 4)).astype(np.float32)}
    ids = names(ROWS + 500)
    found = Novelty.learn(known, ids=ids)
    order = random.permutation(len(ids))
    shuffled = Novelty.learn({"a": known["a"][order]}, ids=ids[order])
    assert len(found.reference) == ROWS
    assert found.distances == pytest.approx(shuffled.distances, rel=1e-4)
    state, arrays = found.state()
    assert sum(array.nbytes for array in arrays.values()) < 1.1e6
    again = Novelty.restore(state, arrays)
    new = {"a": random.normal(size=(20, 4))}
    assert (again.percentiles(new) == found.percentiles(new)).all()
    with pytest.raises(ArtifactError, match="novelty"):
        Novelty.restore(state, {**arrays, "mean": arrays["mean"][1:]})


def test_what_cannot_be_had_is_none_and_what_does_not_fit_is_refused():
    block = {"a": np.random.default_rng(4).normal(size=(20, 3))}
    assert Novelty.learn(block, ids=names(20), groups=np.array(["one"] * 20, dtype=object)) is None
    two = Novelty.learn(block, ids=names(20), groups=np.array(["one"] * 17 + ["two"] * 3, dtype=object))
    assert (two.neighbours, two.n_units) == (3, 2)
    assert two.percentiles({"a": np.full((1, 3), 99.0)})[0] < 99  # so few cannot tell
    constant = Novelty.learn({"a": np.ones((20, 3))}, ids=names(20))
    assert np.isfinite(constant.percentiles({"a": np.ones((1, 3))})).all()
    with pytest.raises(AlignmentError, match="3 columns by a"):
        two.percentiles({"a": np.ones((1, 4))})
