"""Images on other machines: fetched once, only where that is allowed, and kept within bounds."""

import os
import shutil
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biofuse import load_samples
from biofuse.core.errors import DataError, DependencyError, DiskError, UnreadableImageError
from biofuse.data import remote
from biofuse.data.check import check_samples
from biofuse.data.cuts import FileFacts, Opened
from biofuse.data.decoding import ArraySource
from biofuse.data.remote import RemoteSource
from biofuse.data.samples import hash_samples

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

ALLOWED = {"allow_remote": True, "allow_private": True}


class Web:
    """Serves a folder; ``answers`` has other answers by path: a status, or where it leads to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.answers, self.asked = folder, {}, []

    def answer(self, request):
        path = request.path.partition("?")[0]
        self.asked.append(request.path)
        answer = self.answers.get(path, 200)
        answer = answer.pop(0) if isinstance(answer, list) else answer
        if isinstance(answer, str):
            request.send_response(302)
            request.send_header("Location", answer)
            request.end_headers()
        elif answer != 200 or not (self.folder / path[1:]).exists():
            request.send_error(404 if answer == 200 else answer)
        else:
            content = (self.folder / path[1:]).read_bytes()
            request.send_response(200)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)


@pytest.fixture
def web(tmp_path, monkeypatch, serve):
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    there = Web(tmp_path / "there")
    there.folder.mkdir()
    for level in range(4):
        Image.fromarray(np.full((8, 8), 60 * level, np.uint8)).save(there.folder / f"{level}.png")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            there.answer(self)

    there.root = serve(Handler)
    return there


@pytest.fixture
def table(web, tmp_path):
    path = tmp_path / "here" / "table.csv"
    path.parent.mkdir()
    rows = [f"{web.root}/{level}.png?signature=secret{level},{'ab'[level % 2]}" for level in range(4)]
    path.write_text("\n".join(["url,label", *rows]))
    return path


def copies(home):
    return sorted((home / "remote").iterdir())


def test_addresses_are_read_once_as_files_are_and_no_signature_is_seen(web, table, biofuse_home):
    samples = load_samples(table, **ALLOWED)
    assert web.asked == []
    assert samples.ids.tolist() == [f"{web.root}/{level}.png" for level in range(4)]
    assert any("4 image(s) are fetched from 127.0.0.1" in note and str(biofuse_home) in note for note in samples.notes)
    read, _ = hash_samples(samples)
    here, _ = hash_samples(load_samples(web.folder))
    assert sorted(read.contents.tolist()) == sorted(here.contents.tolist())
    report = check_samples(samples)
    assert report.formats == {"PNG": 4}
    assert sorted(web.asked) == [f"/{level}.png?signature=secret{level}" for level in range(4)]
    assert [path.name[-6:] for path in copies(biofuse_home)].count("-0.png") == 1
    assert "secret" not in repr((samples.sources, samples.notes, samples.ids, report.to_dict()))


def test_without_leave_nothing_is_asked_for_and_one_sentence_says_why(web, table):
    for data in (table, [f"{web.root}/0.png"]):
        with pytest.raises(DataError, match=r"/0\.png, which are fetched only where that is allowed\.") as caught:
            load_samples(data)
        assert "allow_remote" in caught.value.remedy
    assert web.asked == []


def test_a_root_may_be_an_address_and_files_of_this_machine_may_lie_beside(web, tmp_path):
    here = tmp_path / "mixed.csv"
    here.write_text("path,label\n0,a\n1,b\n")
    samples = load_samples(here, root=web.root + "/", extension=".png", **ALLOWED)
    assert samples.ids.tolist() == ["0", "1"]
    assert [source.read() for source in samples.sources] == [
        (web.folder / f"{level}.png").read_bytes() for level in (0, 1)
    ]
    here.write_text(f"path,label\nthere/2.png,a\n{web.root}/3.png,b\n")
    mixed = load_samples(here, **ALLOWED)
    assert mixed.ids.tolist() == ["there/2.png", f"{web.root}/3.png"]
    assert mixed.sources[0].read() == (web.folder / "2.png").read_bytes()
    assert load_samples(["3.png"], root=web.root, **ALLOWED).sources[0].read() == mixed.sources[1].read()


def test_signatures_tell_addresses_apart_without_being_shown(web):
    names = load_samples([f"{web.root}/0.png?id={each}" for each in "ab"], **ALLOWED).ids.tolist()
    assert len(set(names)) == 2
    assert all(name.startswith(f"{web.root}/0.png?") and "id=" not in name for name in names)


@pytest.mark.parametrize(
    ("answer", "message", "asked"),
    [
        (404, r"is not there \(404\)", 1),
        (403, r"may not be read \(403\)", 1),
        (401, r"may not be read \(401\)", 1),
        (503, "the server answered 503", remote.ATTEMPTS),
    ],
)
def test_what_a_server_answers_is_said_and_asked_again_where_that_may_help(web, answer, message, asked):
    web.answers["/0.png"] = answer
    (source,) = load_samples([f"{web.root}/0.png?secret"], **ALLOWED).sources
    with pytest.raises(UnreadableImageError, match=message) as caught:
        source.read()
    assert "secret" not in str(caught.value)
    assert caught.value.remedy
    assert len(web.asked) == asked


def test_a_server_that_was_busy_is_asked_again(web):
    web.answers["/0.png"] = [503, 200]
    (source,) = load_samples([f"{web.root}/0.png"], **ALLOWED).sources
    assert source.read() == (web.folder / "0.png").read_bytes()


@pytest.mark.parametrize("direct", [True, False])
def test_private_networks_need_leave_of_their_own_also_behind_a_redirect(web, monkeypatch, direct):
    if not direct:  # the first host counts as public, the one it leads to does not
        web.answers["/0.png"] = web.root.replace("127.0.0.1", "localhost") + "/1.png"
        real = remote.ipaddress.ip_address
        seen = []
        monkeypatch.setattr(
            remote.ipaddress, "ip_address", lambda host: real("9.9.9.9" if not seen and not seen.append(host) else host)
        )
    (source,) = load_samples([f"{web.root}/0.png"], allow_remote=True).sources
    with pytest.raises(UnreadableImageError, match="lies on this machine or in a private network") as caught:
        source.read()
    assert "allow_private" in caught.value.remedy
    assert web.asked == ([] if direct else ["/0.png"])


def test_one_image_may_be_an_address_and_a_table_may_not(web):
    samples = load_samples(f"{web.root}/0.png?secret", **ALLOWED)
    assert samples.ids.tolist() == [f"{web.root}/0.png"]
    assert samples.sources[0].read() == (web.folder / "0.png").read_bytes()
    for name in ("table.csv", "archive.npz", "folder/"):
        with pytest.raises(DataError, match="read on this machine") as caught:
            load_samples(f"{web.root}/{name}?secret", **ALLOWED)
        assert "secret" not in str(caught.value)


def test_addresses_of_other_kinds_and_passwords_are_refused(web):
    with pytest.raises(DataError, match="of a kind that is not fetched"):
        load_samples(["ftp://host/1.png"], allow_remote=True)
    with pytest.raises(DataError, match="a name or a password") as caught:
        load_samples(["https://me:pw@host/1.png"], allow_remote=True)
    assert "pw" not in str(caught.value)


def test_a_missing_library_is_named(web, monkeypatch):
    monkeypatch.setitem(remote.SCHEMES, "http", "no_such_library")
    with pytest.raises(DependencyError, match="no_such_library") as caught:
        load_samples([f"{web.root}/0.png"], **ALLOWED)
    assert caught.value.remedy == "pip install 'biofuse-embed[remote]'"


def test_object_stores_are_read_through_fsspec(monkeypatch):
    import fsspec

    monkeypatch.setitem(remote.SCHEMES, "memory", "fsspec")
    fsspec.filesystem("memory").pipe("/bucket/a b.bin", b"content")
    (source,) = load_samples(["a b.bin"], root="memory://bucket", allow_remote=True).sources
    assert source.read() == b"content"
    (gone,) = load_samples(["memory://bucket/gone"], allow_remote=True).sources
    with pytest.raises(UnreadableImageError, match="memory://bucket/gone: is not there"):
        gone.read()


def source(web, name, *, n_bytes=1000):
    return RemoteSource(address=f"{web.root}/{name}", private=True, n_bytes=n_bytes)


def test_copies_stay_within_their_bound_and_what_is_in_use_stays(web, biofuse_home):
    for name in ("a", "b", "c", "d"):
        (web.folder / name).write_bytes(name.encode() * 400)
    with pytest.raises(DiskError, match="larger than all copies") as caught:
        source(web, "a", n_bytes=399).read()
    assert "remote_cache" in caught.value.remedy
    source(web, "a").read()
    source(web, "b").read()
    with pytest.raises(DiskError, match="read within a day take all"):
        source(web, "c").read()
    first, second = sorted(copies(biofuse_home), key=lambda path: path.name[-1])
    long_ago = time.time() - 2 * remote.IN_USE
    os.utime(first, (long_ago, first.stat().st_mtime))
    os.utime(second, (long_ago + 60, second.stat().st_mtime))
    written = first.stat().st_mtime_ns
    source(web, "a").read()  # read again: now the other is the longest unread
    assert first.stat().st_mtime_ns == written
    assert source(web, "c").read() == b"c" * 400
    assert {path.name[-1] for path in copies(biofuse_home)} == {"a", "c"}
    assert biofuse_home.joinpath("remote").stat().st_mode & 0o077 == 0


def test_what_breaks_off_leaves_no_copy(web, biofuse_home):
    class Cut(bytes):
        """Content that is shorter than it says."""

        def __len__(self):
            return 1000

    web.folder = type("Folder", (), {"__truediv__": lambda self, _: self, "exists": lambda _: True,
                                     "read_bytes": lambda _: Cut(b"short")})()  # fmt: skip
    with pytest.raises(UnreadableImageError, match=r"/x\.png: cannot be fetched"):
        source(web, "x.png").read()
    assert copies(biofuse_home) == []
    assert len(web.asked) == remote.ATTEMPTS


class Volumes:
    """A kind of files that holds two images."""

    SUFFIXES = frozenset({".nii.gz"})

    def recognises(self, _, start):
        return start.startswith(b"volume")

    def open_file(self, path, _, *, called=""):
        if path.read_bytes() == b"volume, cut":
            raise UnreadableImageError(f"{path}: cut off.")
        images = tuple(ArraySource(np.zeros((4, 4), np.uint8), f"{called or path} {each}") for each in (0, 1))
        return Opened(images=images, is_bag=True, about=FileFacts(kind="volume"), warnings=(f"{path} is odd.",))


def test_images_that_are_cut_from_a_copy_are_called_by_its_address(web, biofuse_home):
    pydicom = pytest.importorskip("pydicom")
    nibabel = pytest.importorskip("nibabel")
    films = Path(pydicom.__file__).parent / "data" / "test_files"
    shutil.copy(films / "examples_ybr_color.dcm", web.folder / "film.dcm")
    random = np.random.default_rng(0)
    nibabel.save(nibabel.Nifti1Image(random.integers(0, 99, (9, 9, 9), np.uint8), np.eye(4)), web.folder / "brain.nii")
    names = [f"{web.root}/film.dcm", f"{web.root}/brain.nii"]
    images = load_samples(names, slices="at:4", **ALLOWED).images()
    told = [f"{names[0]}, frame 4", f"{names[1]}: axial slice 4"]
    assert [source.description for source in images.sources] == told
    here = [load_samples([web.folder / Path(name).name], slices="at:4").images().sources[0] for name in names]
    for source_, same in zip(images.sources, here, strict=True):
        assert source_.content(images.decode) == same.content(images.decode)
        np.testing.assert_array_equal(source_.read(), same.read())
    for path in (biofuse_home / "remote").iterdir():
        path.write_bytes(b"another")
    _, reasons = hash_samples(load_samples([web.folder / "0.png"]))
    assert not reasons
    for source_, name in zip(images.sources, names, strict=True):
        with pytest.raises(UnreadableImageError, match="changed after the data were read") as caught:
            source_.read()
        assert caught.value.message.startswith(name)


def test_what_holds_several_images_is_opened_from_its_copy(web, monkeypatch):
    monkeypatch.setattr("biofuse.data.containers.CONTAINERS", (Volumes(),))
    (web.folder / "scan.nii.gz").write_bytes(b"volume")
    shutil.copy(web.folder / "1.png", web.folder / "nameless")
    (web.folder / "cut.nii.gz").write_bytes(b"volume, cut")
    names = ["0.png", "scan.nii.gz", "nameless", "gone.nii.gz", "cut.nii.gz"]
    samples = load_samples([f"{web.root}/{name}" for name in names], **ALLOWED)
    assert samples.sizes.tolist() == [1, 2, 1, 1, 1]
    assert f"{web.root}/scan.nii.gz is odd." in samples.warnings
    assert samples.sources[1].images[0].description == f"{web.root}/scan.nii.gz 0"
    assert "/0.png" not in web.asked
    read, reasons = hash_samples(samples)
    assert list(reasons) == [3, 4]
    assert str(reasons[4]) == f"{web.root}/cut.nii.gz: cut off."
    assert samples.sources[4].description == f"{web.root}/cut.nii.gz"
    assert "is not there" in str(reasons[3])
    assert read.contents[2] != b""
