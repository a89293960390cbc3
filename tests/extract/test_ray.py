"""The Ray engine against the local one."""

import os
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from biofuse.core import ray as clusters
from biofuse.core.errors import BioFuseError, DependencyError, EncoderError, UnreadableImageError, option
from biofuse.core.ray import named_address, ray_cluster, require_ray
from biofuse.encoders.function import pack_builders, register_encoder
from biofuse.encoders.registry import get_card
from biofuse.extract import ray as engines
from biofuse.extract import ray as stages
from biofuse.extract.engine import extract, plan_extraction
from biofuse.extract.options import ExtractOptions
from biofuse.extract.ray import RayEngine
from biofuse.store.store import EmbeddingStore

RAY = ExtractOptions(engine="ray", batch_size=8, device="cpu")
LOCAL = ExtractOptions(workers=0, batch_size=8, device="cpu")

uses_ray = pytest.mark.enable_socket
"""Ray's processes talk over sockets of this machine's own address."""


@register_encoder("test_ray_mean", dim=3, size=8, replace=True)
def mean_of_channels(images):
    return images.mean(axis=(1, 2))


@register_encoder("test_ray_contrast", dim=3, size=8, replace=True)
def contrast(images):
    if not images.max(axis=(1, 2, 3)).all():
        raise ValueError("a black image")
    return images.std(axis=(1, 2))


MEAN = get_card("test_ray_mean")


def assert_equal_blocks(one, other):
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5)


@pytest.mark.slow
@uses_ray
def test_results_are_those_of_the_local_engine_in_the_same_folders_and_order(ray, pictures, network, store, watching):
    cards = (network("test_ray_network"), MEAN)
    samples = pictures(60)
    done = extract(samples, cards, store=store, options=RAY, progress=watching)
    other = EmbeddingStore(store.root.parent / "other")
    local = extract(samples, cards, store=other, options=LOCAL)
    assert_equal_blocks(done, local)
    assert [(work.encoder, work.computed) for work in done.work] == [(card.name, 60) for card in cards]
    assert watching.totals == watching.counts == dict.fromkeys(("reading", "test_ray_network", "test_ray_mean"), 60)
    folders = {path.name for path in store.root.iterdir() if path.is_dir()}
    assert folders == {path.name for path in other.root.iterdir() if path.is_dir()}
    (part,) = store.open(cards[0]).parts()
    np.testing.assert_array_equal(part.contents, done.contents)
    assert done.stages.by_encoder()["test_ray_network"] > 0
    again = extract(samples, cards, store=store, options=RAY)
    assert again.computed == 0


@pytest.mark.slow
@uses_ray
def test_a_killed_actor_loses_nothing(ray, pictures, network, tmp_path, monkeypatch):
    card, samples, flag = network("test_ray_network"), pictures(96), tmp_path / "killed"
    store, other = EmbeddingStore(tmp_path / "store"), EmbeddingStore(tmp_path / "other")
    whole = stages.EncodeStage

    class Mortal(whole):
        def __call__(self, packed):
            result = whole.__call__(self, packed)
            if not flag.exists():
                flag.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return result

    monkeypatch.setattr(engines, "EncodeStage", Mortal)
    monkeypatch.setattr(RayEngine, "_actors", 1)  # one that comes back, and none to take its place
    done = extract(samples, [card], store=store, options=RAY)
    assert int(flag.read_text()) != os.getpid()
    assert done.computed == 96
    local = extract(samples, [card], store=other, options=LOCAL)
    assert_equal_blocks(done, local)
    assert sum(len(part) for part in store.open(card).parts()) == 96  # none twice, either


@pytest.mark.slow
@uses_ray
def test_a_lost_pipeline_is_begun_again_with_what_is_missing(ray, pictures, store, monkeypatch):
    asked, told = [], []
    pipeline = RayEngine._pipeline

    def breaks_once(self, blocks, *rest):
        asked.append(sum(len(block) for block in blocks))
        finished = pipeline(self, blocks, *rest)
        return Breaking(finished) if len(asked) == 1 else finished

    class Breaking:
        def __init__(self, finished):
            self.finished = finished

        def iter_batches(self, **options):
            for number, batch in enumerate(self.finished.iter_batches(**options)):
                if number == 2:
                    raise ray.exceptions.ObjectLostError("0" * 56, None, "")
                yield batch

    monkeypatch.setattr(RayEngine, "_pipeline", breaks_once)
    done = extract(pictures(64), [MEAN], store=store, options=RAY, tell=told.append)
    assert asked == [8, 6]
    assert done.computed == 64
    assert sum(len(part) for part in store.open(MEAN).parts()) == 64
    assert any("done again" in line for line in told)


@pytest.mark.slow
@uses_ray
def test_ray_that_makes_no_headway_is_an_error(ray, pictures, store, monkeypatch):
    class Broken:
        def iter_batches(self, **_):
            raise ray.exceptions.ObjectLostError("0" * 56, None, "")
            yield

    monkeypatch.setattr(RayEngine, "_pipeline", lambda *_: Broken())
    with pytest.raises(BioFuseError, match="Ray could not go on") as caught:
        extract(pictures(4), [MEAN], store=store, options=RAY)
    assert option("batch_size") in caught.value.remedy


@pytest.mark.slow
@uses_ray
def test_unreadable_images_are_refused_or_set_aside_as_ever(ray, pictures, store):
    samples = pictures(20)
    path = samples.sources[13].path
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UnreadableImageError, match=r"0013\.png"):
        extract(samples, [MEAN], store=store, options=RAY)
    options = ExtractOptions(engine="ray", device="cpu", batch_size=8, on_error="quarantine")
    done = extract(samples, [MEAN], store=store, options=options)
    assert [entry.id for entry in done.quarantined] == ["0013.png"]
    assert len(done.samples) == 19


def test_an_actor_whose_encoder_cannot_be_loaded_answers_with_the_error(network):
    card = network("test_ray_room", room=0)
    actor = stages.EncodeStage({card.name: card}, {card.name: "fp32"}, pack_builders([card]), RAY, 8)
    ((number, error),) = stages.rows_of(actor(stages.table([(3, None)])))
    assert number == 3
    with pytest.raises(EncoderError, match=r"test_ray_room cannot be loaded on .*allocate memory"):
        raise error


@pytest.mark.slow
@uses_ray
def test_an_encoder_that_fails_on_a_node_is_named_and_what_came_before_is_kept(ray, pictures, store):
    samples = pictures(16)
    dark = samples.sources[15].path
    Image.new("RGB", (9, 9)).save(dark)  # for which the function below has no answer
    with pytest.raises(EncoderError, match=r"test_ray_contrast.*black"):
        extract(samples, [get_card("test_ray_contrast")], store=store, options=RAY)
    assert sum(len(part) for part in store.open(get_card("test_ray_contrast")).parts()) == 8


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # which Ray reads when it is imported; here it is not
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(DependencyError) as caught:
        RayEngine(RAY)
    assert "biofuse-embed[ray]" in caught.value.remedy


@pytest.mark.slow
def test_no_cluster_at_the_address_is_an_error_that_names_it(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**options):
        assert options["address"] == "10.0.0.1:6379"
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(BioFuseError, match=r"no Ray cluster at 10\.0\.0\.1:6379: nobody answers"), ray_cluster():
        pass


def test_the_address_given_comes_before_that_of_the_environment(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert named_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "one:1")
    assert named_address(None) == "one:1"
    assert named_address("two:2") == "two:2"


def test_a_local_ray_asks_for_a_secret(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is put back as it was, even where it was not there
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(DependencyError):
        require_ray()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize("device", ["mps", "cuda:1", "cpu,cpu"])
def test_ray_chooses_devices_by_itself(device):
    pytest.importorskip("ray")
    with pytest.raises(BioFuseError, match="Ray chooses devices"):
        RayEngine(ExtractOptions(engine="ray", device=device))


@pytest.mark.slow
def test_a_cluster_without_gpus_cannot_be_asked_for_them(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(engines, "cluster_resources", lambda _: {"CPU": 8.0})
    with pytest.raises(BioFuseError, match="has no GPU"):
        _ = RayEngine(ExtractOptions(engine="ray", device="cuda")).device
    assert RayEngine(ExtractOptions(engine="ray")).device == "cpu"
    monkeypatch.setattr(engines, "cluster_resources", lambda _: {"CPU": 8.0, "GPU": 2.0})
    assert RayEngine(ExtractOptions(engine="ray")).device == "cuda"


@pytest.mark.slow
def test_a_plan_starts_no_ray(pictures, store, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(clusters, "_start", lambda _: pytest.fail("Ray was started"))
    plan = plan_extraction(pictures(4), [MEAN], store=store, options=RAY)
    assert plan.groups[0].images == 4
