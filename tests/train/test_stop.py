import os
import signal
import threading

import pytest

from medkd.train.stop import stopping


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_waits_until_the_block_asks(number, error):
    reached = []

    def work():
        with stopping() as stop:
            os.kill(os.getpid(), number)
            reached.append(stop.asked)
            stop.leave_if_asked()
            reached.append("never")

    with pytest.raises(error):
        work()
    assert reached == [True]


def test_a_second_signal_does_not_wait():
    def work():
        with stopping():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_a_signal_that_comes_too_late_to_be_asked_for_still_ends_the_process():
    with pytest.raises(KeyboardInterrupt), stopping():
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_as_before():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with stopping():
        pass
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_leaves_the_signals_alone():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work():
        with stopping() as stop:
            inside.append((signal.getsignal(signal.SIGTERM), stop.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [(before, False)]
