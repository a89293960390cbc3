import subprocess
import sys

import pytest

import biofuse


@pytest.mark.parametrize("name", [name for name in biofuse.__all__ if name != "__version__"])
def test_every_public_name_is_there_and_documented(name):
    assert getattr(biofuse, name).__doc__
    assert name in dir(biofuse)


def test_names_come_without_a_warning_or_a_model_library():
    names = ", ".join(biofuse.__all__)
    heavy = "{'torch', 'transformers', 'sklearn', 'pandas'} & set(sys.modules)"
    code = f"import sys; from biofuse import {names}; sys.exit(bool({heavy}))"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Biofuse'"):
        biofuse.Biofuse  # noqa: B018
