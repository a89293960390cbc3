import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biofuse.blocks.blocks import BlockReader, Blocks
from biofuse.core.errors import AlignmentError
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.store.store import EmbeddingStore


def blocks(n=6):
    base = np.arange(n, dtype=np.float32)[:, None]
    return Blocks(
        ids=np.array([f"s{i}" for i in range(n)], dtype=object),
        matrices={"a": base + np.zeros((n, 2), np.float32), "b": base + np.zeros((n, 3), np.float32)},
    )


@given(st.permutations(range(6)))
def test_joining_on_ids_gives_the_order_asked_for(order):
    joined = blocks().join([f"s{i}" for i in order])
    for matrix in joined.values():
        np.testing.assert_array_equal(matrix[:, 0], order)


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_style_bug_2_rows_shuffled_per_encoder_are_joined_on_ids(first, second):
    left, right = blocks().take(np.array(first)), blocks().take(np.array(second))
    np.testing.assert_array_equal(right.join(left.ids)["b"][:, 0], left["a"][:, 0])


def test_missing_and_repeated_ids_raise():
    with pytest.raises(AlignmentError, match="'s9'"):
        blocks().join(["s1", "s9"])
    with pytest.raises(AlignmentError, match="not unique"):
        blocks().join(["s1", "s1"])
    with pytest.raises(AlignmentError, match="shape"):
        Blocks(ids=np.array(["x"], dtype=object), matrices={"a": np.zeros((2, 2), np.float32)})


def test_encoders_come_in_pool_order_whatever_order_is_asked_for():
    assert blocks().only(["b", "a"]).encoders == ("a", "b")
    with pytest.raises(AlignmentError, match="c"):
        blocks().only(["c"])


# --- reading

N = 50
IDS = np.array([f"s{row:02d}" for row in range(N)], dtype=object)
CONTENTS = np.array([row.to_bytes(16, "big") for row in range(1, N + 1)], dtype="S16")


def card(name, dim, runtime="torch"):
    return EncoderCard(
        name=name,
        title=name,
        loader="function",
        preprocessing=Preprocessing(resize="squash", size=8),
        output="descriptor",
        dim=dim,
        runtime=runtime,
        licence="Apache-2.0",
        modality="none",
        source="this test",
    )


CARDS = (card("b", 3), card("a", 2))


def values(each, factor=1):
    return factor * (np.arange(N * each.dim, dtype=np.float32).reshape(N, each.dim) + each.dim)


@pytest.fixture
def store(tmp_path):
    store = EmbeddingStore(tmp_path)
    for each in CARDS:
        for rows in np.array_split(np.random.default_rng(each.dim).permutation(N), 4):
            store.open(each).write(CONTENTS[rows], values(each)[rows])
    return store


@pytest.fixture
def reader(store):
    return BlockReader(store=store, cards=CARDS, ids=IDS, contents=CONTENTS)


def test_blocks_come_in_pool_order_with_the_samples_rows(reader):
    blocks = reader.read()
    assert blocks.encoders == ("b", "a")
    for each in CARDS:
        np.testing.assert_array_equal(blocks[each.name], values(each))


def test_pieces_are_the_whole(reader):
    pieces = list(reader.iter_blocks(rows=7))
    assert [piece.n_samples for piece in pieces] == [7] * 7 + [1]
    whole = reader.read()
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == IDS.tolist()
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([piece[name] for piece in pieces]), whole[name])


def test_a_join_on_ids_has_the_same_rows_as_joining_the_blocks(reader):
    wanted = np.random.default_rng(0).permutation(IDS)[:20]
    joined, expected = reader.join(wanted).read(), reader.read().join(wanted)
    assert joined.ids.tolist() == wanted.tolist()
    for name in expected:
        np.testing.assert_array_equal(joined[name], expected[name])


def test_an_unknown_id_and_an_id_asked_for_twice_raise(reader):
    with pytest.raises(AlignmentError, match=r"1 sample ids have no embeddings, e\.g\. 'nobody'"):
        reader.join(["s01", "nobody"])
    with pytest.raises(AlignmentError, match="'s01'"):
        reader.join(["s01", "s02", "s01"])


def test_ids_that_repeat_or_do_not_fit_raise(store):
    with pytest.raises(AlignmentError, match="'s00'"):
        BlockReader(store=store, cards=CARDS, ids=IDS[[0, 1, 0]], contents=CONTENTS[:3])
    with pytest.raises(AlignmentError, match="2 sample ids for 3 content hashes"):
        BlockReader(store=store, cards=CARDS, ids=IDS[:2], contents=CONTENTS[:3])


def test_a_sample_without_embedding_raises_before_the_first_piece(store):
    contents = np.concatenate([CONTENTS, np.array([b"x" * 16], dtype="S16")])
    reader = BlockReader(store=store, cards=CARDS, ids=np.append(IDS, "new"), contents=contents)
    with pytest.raises(AlignmentError, match="1 of 51 samples have no b embedding"):
        next(reader.iter_blocks(rows=10))


def test_each_encoder_is_read_at_its_own_precision(store):
    store.open(CARDS[1], precision="bf16").write(CONTENTS, values(CARDS[1], factor=-1))
    reader = BlockReader(store=store, cards=CARDS, ids=IDS, contents=CONTENTS, precisions={"a": "bf16"})
    blocks = reader.read()
    np.testing.assert_array_equal(blocks["a"], -values(CARDS[1]))
    np.testing.assert_array_equal(blocks["b"], values(CARDS[0]))
