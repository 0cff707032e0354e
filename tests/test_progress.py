import io

import pytest
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from medkd import progress as module
from medkd.progress import progress


@pytest.fixture
def screen(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=text, width=100))
    return text


def test_yields_every_item_in_order(screen):
    assert list(progress("abc", "letters", total=3)) == ["a", "b", "c"]
    assert "letters: 3/3" in screen.getvalue()


def test_a_resumed_run_counts_from_where_it_was(screen):
    list(progress(range(2), "steps", total=10, done=8))
    assert "steps: 10/10" in screen.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=text, width=100, force_terminal=True))
    assert list(progress(range(3), "steps", total=3)) == [0, 1, 2]
    assert "3/3" in text.getvalue()
    assert "━" in text.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("evil", ["\x1b]0;owned", "\x1b[2J", "\x9b31m", "\u202e"])
def test_text_of_others_steers_no_terminal(evil, terminal):
    text = io.StringIO()
    console = module.InertConsole(file=text, width=100, force_terminal=terminal, highlight=False)
    table = Table("case")
    table.add_row(Text(f"a{evil}b"))
    console.print(f"[red]error:[/] {escape(f'a{evil}b')}", table)
    assert evil not in text.getvalue()
    assert "a" + evil.encode("unicode_escape").decode() + "b" in text.getvalue()
