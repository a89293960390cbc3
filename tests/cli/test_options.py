"""Every command that searches or extracts offers the same options, and takes any of its options from a file."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import typer

from biofuse.cli.app import app
from biofuse.cli.options import options_page
from biofuse.data.config import DataConfig
from biofuse.extract.options import ExtractOptions
from biofuse.search.config import SearchConfig

EXTRACTING = (
    "embed", "fit", "evaluate", "predict", "report", "demo", "benchmark medmnist", "benchmark imagenet",
    "benchmark data", "store verify", "similar",
)  # fmt: skip
READING = (
    "check", "embed", "fit", "evaluate", "predict", "benchmark data", "store export", "store import", "store verify",
    "similar",
)  # fmt: skip
SEARCHING = ("fit", "demo", "benchmark medmnist", "benchmark data")
OWN = {
    "embed": {"encoders"},
    "curve": {"repeats"},
    "benchmark medmnist": {"root"},
    "benchmark imagenet": {"encoders", "root"},
    "store export": {"encoders", "precision"},
    "store verify": {"seed"},
    "export": {"weights_dir"},
    "encoders doctor": {"device", "weights_dir"},
    "encoders verify": {"by", "device", "weights_dir"},
    "serve": {"batch_size", "device", "weights_dir"},
}
"""Options of a command's own that are called like one of an object."""


def commands(group=None, prefix=""):
    """Return every command by its full name."""
    found = {}
    for name, command in (group or typer.main.get_command(app)).commands.items():
        full = f"{prefix}{name}"
        found |= commands(command, f"{full} ") if hasattr(command, "commands") else {full: command}
    return found


def offered(command):
    return {each.name: each for each in command.params if each.param_type_name == "option"}


COMMANDS = commands()
MODELS = (DataConfig, ExtractOptions, SearchConfig)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_offers_all_options_of_an_object_or_none(name):
    expected = set(OWN.get(name, set()))
    for model, takers in zip(MODELS, (READING, EXTRACTING, SEARCHING), strict=True):
        expected |= {offer.name for offer in model.offers()} if name in takers else set()
    known = {offer.name for model in MODELS for offer in model.offers()}
    assert set(offered(COMMANDS[name])) & known == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_its_options_from_a_file(name):
    assert "--config" in offered(COMMANDS[name])["config"].opts


@pytest.mark.parametrize("model", MODELS)
def test_an_option_of_the_command_line_is_what_its_field_says(model):
    options = offered(COMMANDS["fit"])
    for offer in model.offers():
        option = options[offer.name]
        assert offer.flag in (option.secondary_opts if offer.option.off else option.opts)
        assert option.help.startswith(offer.field.description)
        assert option.rich_help_panel == offer.option.panel
        assert option.envvar == (offer.option.env or None)
        assert option.default is None  # what was not chosen is left to the object


def test_help_has_panels_with_what_matters_first(succeeds):
    said = succeeds("fit", "--help").out
    panels = re.findall(r"╭─ (\w+) ─", said)
    assert panels == ["Arguments", "Options", "Data", "Search", "Running", "Advanced"]
    first = said[: said.index("─ Advanced ─")]
    for flag in ("--out", "--encoders", "--head", "--search", "--select", "--device", "--batch-size", "--on-error"):
        assert flag in first
    for flag in ("--ray-address", "--weights-dir", "--finalists", "--memory"):
        assert flag not in first


def test_the_page_of_options_is_what_the_objects_say():
    page = Path(__file__).resolve().parents[2] / "docs" / "options.md"
    assert page.read_text(encoding="utf-8") == options_page(), "run: make docs"


# --- options from a file


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a file of options."""

    def write(text):
        path = tmp_path / "study.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_gives_options_and_the_command_line_wins(images, config, succeeds, tmp_path):
    path = config(
        f'out = "{tmp_path / "run"}"\nencoders = ["haralick", "hog"]\nfolds = 2\nrepeats = 1\nhead = "ridge"\n'
        'max-latency = 1e6\ncommercial-only = true\non_error = "quarantine"\nseed = 7\nbatch_size = "auto"\n'
    )
    succeeds("fit", images, "--config", path, "--seed", 3, "--head", "lda")
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert (options["encoders"], options["folds"], options["commercial_only"]) == (["haralick", "hog"], 2, True)
    assert (options["max_latency"], options["seed"], options["head"]) == (1e6, 3, "lda")


def test_a_file_of_options_does_for_any_command(images, config, succeeds, tmp_path):
    paths = sorted(images.rglob("*.png"))
    rows = [f"{path},{number % 2},{number % 3 // 2}" for number, path in enumerate(paths)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,odd,third", *rows]))
    out = tmp_path / "e.parquet"
    path = config(f'out = "{out}"\nencoders = "hog"\nlabel = ["odd", "third"]\nworkers = 0\n')
    succeeds("embed", tmp_path / "manifest.csv", "--config", path)
    assert pd.read_parquet(out)["label"][5] == "odd|third"
    listed = succeeds("encoders", "list", "--config", config("commercial = true\njson = true\n"))
    assert all(each["commercial"] for each in json.loads(listed.out))


def unboxed(message: str) -> str:
    """What stands in the box of a usage error, without spaces: its lines may break anywhere in a long path."""
    return re.sub(r"[│╭╮╰╯─\s]", "", message)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hed = 'ridge'", ["no option 'hed'", "Did you mean 'head'"]),
        ("head = 'rigde'", ["head = 'rigde'", "'ridge'"]),
        ("folds = 1", ["folds = 1", "2"]),
        ("folds = 2.5", ["folds = 2.5"]),
        ("select = 'loo'", ["select = 'loo'", "nested"]),
        ("batch-size = 0", ["batch-size = 0", "auto"]),
        ("commercial_only = 'yes'", ["commercial_only is true or false"]),
        ("[search]\nhead = 'ridge'", ["search is a table"]),
        ("config = 'other.toml'", ["no option 'config'"]),
        ("head = ", ["cannot be read"]),
    ],
    ids=str,
)
def test_a_wrong_key_or_value_is_refused_naming_the_file(text, words, config, biofuse, tmp_path):
    ran = biofuse("fit", tmp_path, "--out", tmp_path / "run", "--config", config(text))
    assert ran.code == 2
    said = unboxed(ran.err)
    for word in ["study.toml", *words]:
        assert word.replace(" ", "") in said
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_named(images, biofuse, tmp_path):
    ran = biofuse("fit", images, "--out", tmp_path / "run", "--config", tmp_path / "nowhere.toml")
    assert ran.code == 2
    assert "nowhere.toml" in unboxed(ran.err)
