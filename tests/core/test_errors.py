import pickle

import pytest

from biofuse.core.errors import DiskError, in_command_words, option, printable


def test_an_error_keeps_its_remedy_on_the_way_back_from_a_worker_process():
    error = pickle.loads(pickle.dumps(DiskError("full", remedy="free some")))  # noqa: S301
    assert (type(error), error.message, error.remedy) == (DiskError, "full", "free some")
    assert str(error) == "full\nfree some"


@pytest.mark.parametrize(
    ("written", "python", "command"),
    [
        (option("label"), "`label=`", "--label"),
        (option("label_separator", "|"), "`label_separator='|'`", "--label-separator '|'"),
        (option("root", "a b"), "`root='a b'`", "--root 'a b'"),
        (option("root", "a `x`"), r"`root='a \x60x\x60'`", "--root 'a `x`'"),
        (option("root", "it's"), '`root="it\'s"`', "--root 'it'\"'\"'s'"),
        (option("drop_classes_below", 5), "`drop_classes_below=5`", "--drop-classes-below 5"),
        (option("use_splits", False), "`use_splits=False`", "--no-splits"),
        (option("allow_random_weights", True), "`allow_random_weights=True`", "--allow-random-weights"),
        (option("test", None), "`test=None`", "--no-test"),
        (option("exclude", ["*_mask*", "x"]), "`exclude=['*_mask*', 'x']`", "--exclude '*_mask*' --exclude x"),
    ],
)
def test_an_option_is_said_as_its_surface_writes_it(written, python, command):
    assert written == python
    assert in_command_words(f"Give {written}.") == f"Give {command}."


def test_other_text_stays_as_it_is():
    text = "Run `biofuse check`, x=1, `a == b` and `Path='` alone."
    assert in_command_words(text) == text


def test_nothing_in_an_error_is_obeyed_by_a_terminal():
    error = DiskError("a\x1b[2J\x9b1m\r\u202e\udce9.png\tend\nnext", remedy="look at \x07")
    assert str(error) == r"a\x1b[2J\x9b1m\x0d\u202e\xe9.png" + "\tend\nnext\n" + r"look at \x07"
    assert printable("Größe µ 肺 •") == "Größe µ 肺 •"
