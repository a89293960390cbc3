"""Encoders of a user's own Python file, on the command line."""

import json

import pytest
from typer.testing import CliRunner

from biofuse.cli.app import app
from biofuse.core.errors import EncoderError, UnknownEncoderError
from biofuse.encoders.registry import ENCODERS

FILE = """
import biofuse
from my_helper import SIDE

@biofuse.register_encoder("p_bright", dim=3, size=SIDE)
def p_bright(images):
    return images.mean(axis=(1, 2)) / 255

def register(registry):
    registry.register(registry.get_card("p_bright").model_copy(update={"name": "p_again", "version": 2}),
                      registry.own_builder("p_bright"))
"""


def run(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.slow
def test_a_plugin_serves_fit_and_predict_is_recorded_and_is_named_where_it_is_missing(make_images, tmp_path):
    make_images(tmp_path / "images", per_class=10)
    plugin = tmp_path / "my_encoders.py"
    plugin.write_text(FILE)
    (tmp_path / "my_helper.py").write_text("SIDE = 16\n")
    fitted = tmp_path / "run"
    (tmp_path / "options.toml").write_text(f'encoders = "p_bright"\nhead = "ridge"\nplugin = "{plugin}"\n')
    with ENCODERS.temporary():
        with pytest.raises(UnknownEncoderError) as error:
            run("embed", tmp_path / "images", "-e", "p_bright", "--out", tmp_path / "e.npz")
        assert "--plugin FILE" in error.value.remedy
        run("fit", tmp_path / "images", "--config", tmp_path / "options.toml", "--no-store", "--out", fitted)
        run("encoders", "show", "p_again", "--plugin", plugin)
    record = json.loads((fitted / "run.json").read_text())
    assert [each["path"] for each in record["plugins"]] == [str(plugin)]
    assert len(record["plugins"][0]["sha256"]) == 64
    predict = ("predict", fitted, tmp_path / "images", "--out", tmp_path / "p.csv")
    with ENCODERS.temporary(), pytest.raises(UnknownEncoderError) as missing:
        run(*predict)
    assert str(plugin) in missing.value.message
    assert "--plugin my_encoders.py" in missing.value.remedy
    with ENCODERS.temporary(), pytest.raises(UnknownEncoderError, match="fitted with the plugin"):
        run("evaluate", fitted)
    with ENCODERS.temporary():
        run(*predict, "--plugin", plugin)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 21


@pytest.mark.parametrize(("text", "words"), [(None, "does not exist"), ("1 / 0", "ZeroDivisionError")])
def test_a_plugin_that_fails_says_so(tmp_path, text, words):
    plugin = tmp_path / "broken.py"
    if text is not None:
        plugin.write_text(text)
    with pytest.raises(EncoderError, match=words):
        run("encoders", "list", "--plugin", plugin)
