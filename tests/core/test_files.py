import errno
import os

import pytest

from biofuse.core.errors import DiskError
from biofuse.core.files import atomic_path, disk_errors, hash_named_file, write_text
from biofuse.core.hashing import digest_bytes


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "a" / "file.txt"
    write_text(target, "old")

    def fail_half_way():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")]
)
def test_the_systems_refusals_become_one_error_with_a_remedy(tmp_path, code, words):
    with pytest.raises(DiskError, match=words) as caught, disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))
    assert caught.value.remedy


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(DiskError, match="store"):
        write_text(tmp_path / "store" / "card.json", "{}")


def fails_halfway(file):
    file.write(b"half")
    raise ValueError("the source was closed")


def test_a_file_named_by_its_hash_is_whole_or_absent(tmp_path):
    folder = tmp_path / "new"
    with hash_named_file(folder, suffix=".bin") as (file, path):
        file.write(b"left ")
        file.write(memoryview(b"right"))
    assert path() == folder / f"{digest_bytes(b'left right')}.bin"
    assert path().read_bytes() == b"left right"
    with pytest.raises(ValueError, match="closed"), hash_named_file(folder, suffix=".bin") as (file, _):
        fails_halfway(file)
    assert list(folder.iterdir()) == [path()]
