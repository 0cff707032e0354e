import threading
import time

import pytest

from medkd.device.pipeline import pipelined


def test_outcomes_come_in_order_and_one_failure_stops_no_other():
    def work(item, loaded):
        if item == 2:
            raise ValueError("two")
        return loaded + 1

    outcomes = pipelined(range(5), read=lambda i: 10 * i, work=work, write=lambda i, w: (i, w))
    told = {item: outcome.exception() or outcome.result() for item, outcome in outcomes}
    assert list(told) == [0, 1, 2, 3, 4]
    assert str(told.pop(2)) == "two"
    assert told == {i: (i, 10 * i + 1) for i in (0, 1, 3, 4)}


@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_a_failure_of_any_stage_is_the_items_own(stage):
    def failing(*_):
        raise OSError("full")

    stages = {"read": lambda i: i, "work": lambda i, r: r, "write": lambda i, w: w}
    outcomes = list(pipelined([1, 2], **(stages | {stage: failing})))
    assert [str(outcome.exception()) for _, outcome in outcomes] == ["full", "full"]


def test_reading_working_and_writing_overlap():
    def slowly(*_):
        time.sleep(0.1)

    start = time.perf_counter()
    assert len(list(pipelined(range(8), read=slowly, work=slowly, write=slowly))) == 8
    assert time.perf_counter() - start < 0.7 * 8 * 0.3


def test_no_more_than_three_items_are_in_memory():
    held, most, lock = 0, 0, threading.Lock()

    def change(by):
        nonlocal held, most
        with lock:
            held += by
            most = max(most, held)

    def read(_):
        change(1)

    def write(*_):
        time.sleep(0.01)
        change(-1)

    list(pipelined(range(30), read=read, work=lambda *_: None, write=write))
    assert held == 0
    assert most <= 4  # one is read, one at work, one waits to be written, one is written
