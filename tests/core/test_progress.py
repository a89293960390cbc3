import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from biofuse.core.progress import Bars, Log, NotebookBars, SafeConsole, Silent, duration, progress_bars, tell_user


def test_durations_read_well():
    assert [duration(s) for s in (0.5, 42, 300, 7200, 200000)] == [
        "0.50 seconds", "42 seconds", "5 minutes", "2 hours", "2.31 days",
    ]  # fmt: skip


def test_bars_are_for_terminals_and_for_those_who_want_them():
    terminal = Console(file=io.StringIO(), force_terminal=True)
    with progress_bars(console=terminal) as shown:
        assert isinstance(shown, Bars)
        shown.begin("reading", 3)
        shown.advance("reading", 2)
    assert "reading" in terminal.file.getvalue()
    for hidden in (progress_bars(False, console=terminal), progress_bars(console=Console(file=io.StringIO()))):
        with hidden as silent:
            assert isinstance(silent, Silent)
    mine = Silent()
    with progress_bars(mine) as given:
        assert given is mine


def terminal(width: int, height: int = 24) -> SafeConsole:
    return SafeConsole(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_break_between_words_on_a_terminal_and_nowhere_else(width):
    sentence = "Plan: 1,340 images on cpu, two batches at a time; see /a/path/of/one/word/" + "x" * 60 + " for more."
    shown = terminal(width)
    shown.line_of(sentence)
    lines = shown.file.getvalue().splitlines()
    assert " ".join(lines) == sentence
    assert all(len(line) <= width or " " not in line for line in lines)
    piped = SafeConsole(file=io.StringIO(), width=width)
    piped.line_of(sentence)
    assert piped.file.getvalue() == f"{sentence}\n"


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_bar_is_wider_than_the_terminal_or_left_behind_and_lines_stand_by_themselves(width):
    console = terminal(width, height=10)
    with progress_bars(console=console) as bars, progress_bars(console=console, unit="subsets") as inner:
        for number in range(30):
            bars.begin(f"encoder_of_a_long_name_{number}", 1_000_000)
            bars.advance(f"encoder_of_a_long_name_{number}", 500_000)
        inner.begin("subsets", 511)
        inner.begin("subsets", 16)
        console.line_of("News.")
    said = console.file.getvalue()
    frames = [line.split("\x1b[2K")[-1] for line in said.replace("\r", "").split("\n")]
    assert all(len(frame.replace("\x1b[?25h", "").replace("\x1b[?25l", "")) <= width for frame in frames)
    assert "News." in frames
    last = said[said.rindex("\x1b[?25h") :]
    assert last.count("\x1b[2K") >= 1  # what was drawn last is taken away
    assert max(frame.count("━") for frame in frames) <= width


def test_bars_within_bars_are_gone_when_their_work_is():
    console = terminal(100)
    with progress_bars(console=console) as outer:
        outer.begin("outer", 2)
        with progress_bars(console=console) as inner:
            inner.begin("inner", 2)
        console.file.truncate(0)
        console.line_of("between")
        assert "outer" in console.file.getvalue()
        assert "inner" not in console.file.getvalue()


class Kernel:
    """Stands for what runs a notebook's cells."""

    def __init__(self):
        self.shown = []

    def display(self, content, display_id):
        assert display_id
        self.shown.append(content)
        return SimpleNamespace(update=self.shown.append)


def test_a_notebook_shows_progress_in_its_cell_and_news_among_its_outputs(monkeypatch, capsys):
    kernel = Kernel()
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=kernel.display))
    with progress_bars() as bars:
        assert isinstance(bars, NotebookBars)
        bars.begin("a<b", 10)
        bars.advance("a<b", 4)
    assert "a&lt;b" in kernel.shown[-1]
    assert "4 of 10 images" in kernel.shown[-1]
    tell_user("News [of] it.")
    assert capsys.readouterr().out == "News [of] it.\n"


def test_news_are_told_and_kept_with_what_was_told_before_there_was_a_file(tmp_path):
    told = []
    log = Log(told.append)
    log("first")
    log.write_to(tmp_path / "run.log")
    log("sec\x1bond")
    log.keep("third")
    assert told == ["first", "sec\x1bond"]
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["first", "sec\\x1bond", "third"]
