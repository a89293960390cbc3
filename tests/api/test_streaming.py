import numpy as np
import pytest

import biofuse
from biofuse import ExtractOptions, embed, embed_batches, load_samples
from biofuse.core.errors import AlignmentError, BioFuseError, DataError
from biofuse.store.store import EmbeddingStore

NAMES = ["t_colour", "t_edge"]
ALONE = ExtractOptions(workers=0)


@pytest.fixture
def files(tmp_path, draw):
    return draw(tmp_path / "images", each=4)


def batches(data, encoders=NAMES, **options):
    return embed_batches(data, encoders, options=ALONE, progress=False, **options)


def test_batches_are_what_embed_gives_cut_in_pieces(files, tmp_path):
    whole = embed(files[0].parents[1], NAMES, workers=0, progress=False)
    found = list(batches(files[0].parents[1], rows=5, store=tmp_path / "other"))
    assert [len(batch.samples) for batch in found] == [5, 5, 2]
    assert np.concatenate([batch.ids for batch in found]).tolist() == whole.ids.tolist()
    assert np.concatenate([batch.labels for batch in found]).tolist() == whole.labels.tolist()
    for name in NAMES:
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in found]), whole[name])
    assert all(batch.samples.classes == whole.samples.classes for batch in found)


def test_a_batch_is_stored_before_it_is_handed_out_and_a_stopped_loop_goes_on(files, tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    loop = batches(files[0].parents[1], rows=5, store=store)
    next(loop)
    loop.close()
    assert {folder.card.name: folder.n_embeddings() for folder in EmbeddingStore(store.root).folders()} == {
        "t_colour": 5,
        "t_edge": 5,
    }
    again = list(batches(files[0].parents[1], rows=12, store=store))
    assert [(work.computed, work.reused) for work in again[0].work] == [(7, 5)] * 2


def test_mistakes_are_found_before_the_first_batch_is_asked_for(files):
    with pytest.raises(BioFuseError, match="rows"):
        batches(files[0].parents[1], rows=0)
    with pytest.raises(BioFuseError, match="nobody"):
        batches(files[0].parents[1], ["nobody"])
    with pytest.raises(DataError):
        batches(files[0].parents[1] / "nowhere")


def test_pieces_of_an_iterator_are_embedded_one_after_the_other(files, tmp_path):
    whole = load_samples(files[0].parents[1])
    taken = []

    def pieces():
        for rows in (range(5), range(5, 12)):
            taken.append(len(rows))
            yield whole.take(rows)

    loop = batches(pieces(), rows=4, store=tmp_path / "store")
    first = next(loop)
    assert taken == [5]
    found = [first, *loop]
    assert [len(batch.samples) for batch in found] == [4, 1, 4, 3]
    expected = embed(whole, NAMES, workers=0, progress=False)
    np.testing.assert_array_equal(np.concatenate([batch.matrix for batch in found]), expected.matrix)


def test_pieces_that_do_not_belong_together_are_refused(files, tmp_path):
    whole = load_samples(files[0].parents[1])
    with pytest.raises(AlignmentError, match="occurs in two pieces"):
        list(batches(iter([whole.take(range(3)), whole.take([2])])))
    few = load_samples(files[:8], labels=["a"] * 4 + ["b"] * 4)
    with pytest.raises(DataError, match="has the classes a, b, the first piece ctl, mid, sev"):
        list(batches(iter([whole, few])))
    with pytest.raises(DataError, match="must be Samples"):
        list(batches(iter(files)))
    with pytest.raises(DataError, match="label cannot be given"):
        batches(iter([whole]), label="x")


def test_the_precision_of_the_first_batch_is_kept(files, monkeypatch):
    from dataclasses import replace

    from biofuse.api import embed as streaming

    asked = []

    def embedded(samples, cards, *, options, **rest):
        asked.append(dict(options.precisions))
        return replace(real(samples, cards, options=options, **rest), precisions={"t_colour": "bf16"})

    real = streaming.extract
    monkeypatch.setattr(streaming, "extract", embedded)
    list(batches(files[0].parents[1], ["t_colour"], rows=6))
    assert asked == [{}, {"t_colour": "bf16"}]


def test_the_number_of_rows_is_bounded_by_their_size():
    from biofuse.api.embed import _rows_for
    from biofuse.encoders.registry import get_card

    card = get_card("lbp")
    wide = [card.model_copy(update={"name": f"w{n}", "dim": 1536}) for n in range(9)]
    assert _rows_for([card.model_copy(update={"dim": 2})]) == 65_536
    assert _rows_for(wide) * 4 * 9 * 1536 <= 512 << 20
    assert _rows_for(wide * 10) == 1_024


def test_it_can_be_had_from_the_package():
    assert "embed_batches" in biofuse.__all__
    assert biofuse.embed_batches is embed_batches
