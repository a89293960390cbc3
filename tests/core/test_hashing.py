import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from biofuse.core.hashing import (
    canonical_json,
    derive_seed,
    digest,
    digest_bytes,
    digest_file,
    digest_json,
    from_hex,
    hash_order,
    no_contents,
    to_hex,
)


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_parts_never_collide_by_concatenation(left, right):
    assert (digest(*left) == digest(*right)) == (left == right)


def test_json_is_hashed_independently_of_key_order():
    assert digest_json({"a": 1, "b": [2]}) == digest_json({"b": [2], "a": 1}) != digest_json({"a": 1, "b": [3]})
    assert canonical_json({"b": 1, "a": 2}) == b'{"a":2,"b":1}'


def test_a_file_hashes_as_its_bytes(tmp_path):
    data = b"x" * (3 << 20)
    (tmp_path / "f").write_bytes(data)
    assert digest_file(tmp_path / "f") == digest_bytes(data)
    for name in ("sha256", "md5"):
        assert digest_file(tmp_path / "f", algorithm=name) == hashlib.new(name, data).hexdigest()


@given(st.lists(st.text(max_size=5), unique=True, min_size=1), st.randoms())
def test_hash_order_does_not_depend_on_the_order_given(keys, random):
    shuffled = random.sample(keys, len(keys))
    assert [keys[i] for i in hash_order(keys, 3)] == [shuffled[i] for i in hash_order(shuffled, 3)]


def test_seeds_depend_on_names():
    assert derive_seed(0, "a") == derive_seed(0, "a") != derive_seed(0, "b") != derive_seed(1, "b")


@given(st.lists(st.binary(min_size=16, max_size=16)))
def test_content_hashes_are_written_as_text_and_read_back(hashes):
    contents = np.array(hashes, dtype="S16")
    assert to_hex(contents) == [each.hex() if any(each) else "" for each in hashes]
    np.testing.assert_array_equal(from_hex(to_hex(contents)), contents)
    assert to_hex(no_contents(2)) == ["", ""]
