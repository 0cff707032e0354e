import threading

import pytest

from medkd.errors import StudyError
from medkd.track.journal import read
from medkd.track.ledger import LEDGER_FILE, Ledger

URI = "http://someone:secret@host:5000"


@pytest.fixture
def ledger(journal, folder):
    journal.run("student").status("RUNNING")
    return Ledger(folder, URI)


def test_everything_is_pending_until_it_is_remembered(ledger):
    assert ledger.pending() == 2
    _, middle = next(read(ledger.journal))
    ledger.remember(middle, {"study": "1"})
    assert ledger.pending() == 1
    assert ledger.runs == {"study": "1"}
    assert [event["kind"] for event, _ in ledger.rest()] == ["status"]


def test_each_store_has_its_own_place(ledger):
    ledger.remember(ledger.size(), {})
    assert ledger.pending() == 0
    assert Ledger(ledger.folder, "sqlite:///other.db").pending() == 2


@pytest.mark.parametrize("content", [None, "", "{torn"])
def test_a_lost_ledger_means_that_all_is_pending(ledger, content):
    ledger.remember(ledger.size(), {})
    file = ledger.folder / LEDGER_FILE
    file.unlink() if content is None else file.write_text(content)
    assert ledger.pending() == 2


def test_no_address_is_written_down(ledger):
    ledger.remember(0, {})
    text = (ledger.folder / LEDGER_FILE).read_text()
    assert "secret" not in text
    assert "host" not in text


def test_a_folder_without_a_journal_is_no_study(tmp_path):
    ledger = Ledger(tmp_path, URI)
    assert ledger.size() == ledger.pending() == 0
    with pytest.raises(StudyError, match="no journal here"), ledger.alone():
        pass


def test_a_second_sender_waits(ledger):
    entered = threading.Event()

    def second():
        with ledger.alone():
            entered.set()

    thread = threading.Thread(target=second)
    with ledger.alone():
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(5)
    thread.join()
