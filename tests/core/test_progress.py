import io

from rich.console import Console

from biofuse.core.progress import Bars, Silent, duration, progress_bars


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
