from __future__ import annotations

import gc
import threading
import time
from itertools import count

import pytest

from tabrt.ahead import ahead


def wait_for(condition) -> bool:
    """Whether the condition comes true within five seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_hands_on_all_items_in_order():
    assert list(ahead(range(1000))) == list(range(1000))
    assert list(ahead([])) == []


def test_the_end_stays_the_end():
    items = ahead([1])
    assert next(items) == 1
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(items)


def test_hands_on_the_error_after_the_items_before_it():
    def failing():
        yield 1
        yield 2
        raise OSError("gone")

    items = ahead(failing())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(items)
    with pytest.raises(StopIteration):
        next(items)


def test_an_error_before_the_first_item_is_handed_on():
    with pytest.raises(TypeError):
        next(ahead(7))


def test_runs_ahead_by_its_depth_and_no_further():
    made = []
    items = ahead((made.append(n) or n for n in count()), depth=3)
    assert wait_for(lambda: len(made) == 4), "three wait, and one is in the thread's hand"
    time.sleep(0.05)
    assert len(made) == 4
    assert next(items) == 0
    assert wait_for(lambda: len(made) == 5)
    items.close()


def test_drop_keeps_only_the_newest():
    made = threading.Event()

    def camera():
        yield from range(100)
        made.set()

    items = ahead(camera(), drop=True)
    assert made.wait(5)
    assert list(items) == [99]
    assert items.dropped == 99


def test_nothing_is_dropped_when_the_taker_is_quick():
    ready = threading.Semaphore(0)

    def camera():
        for number in range(5):
            ready.acquire()
            yield number

    items = ahead(camera(), drop=True)
    taken = []
    for _ in range(5):
        ready.release()
        taken.append(next(items))
    assert taken == [0, 1, 2, 3, 4]
    assert items.dropped == 0


def test_close_stops_the_thread_and_closes_the_generator_in_it():
    closed_in = []

    def source():
        try:
            yield from count()
        finally:
            closed_in.append(threading.current_thread())

    with ahead(source(), depth=2) as items:
        assert next(items) == 0
    assert len(closed_in) == 1
    assert closed_in[0] is not threading.current_thread()
    assert list(items) == [], "a closed one ends"
    items.close()


def test_close_does_not_wait_for_a_source_that_is_stuck():
    stuck = threading.Event()

    def source():
        yield 1
        stuck.wait(30)
        yield 2

    items = ahead(source())
    assert next(items) == 1
    closing = threading.Thread(target=items.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    stuck.set()


def test_close_wakes_a_taker():
    stuck = threading.Event()
    items = ahead(stuck.wait(30) for _ in range(1))
    taken = []
    taker = threading.Thread(target=lambda: taken.extend(items), daemon=True)
    taker.start()
    items.close()
    taker.join(10)
    assert not taker.is_alive() and taken == []
    stuck.set()


def test_a_chain_is_closed_from_its_end():
    closed = []

    def source():
        try:
            yield from count()
        finally:
            closed.append(True)

    with ahead(map(str, ahead(source()))) as items:
        assert next(items) == "0"
    gc.collect()
    assert wait_for(lambda: closed)


def test_a_forgotten_one_stops():
    closed = threading.Event()

    def source():
        try:
            yield from count()
        finally:
            closed.set()

    items = ahead(source())
    next(items)
    del items
    gc.collect()
    assert closed.wait(5)


def test_items_are_not_kept_after_they_are_taken():
    class Large:
        alive = 0

        def __init__(self):
            Large.alive += 1

        def __del__(self):
            Large.alive -= 1

    for item in ahead((Large() for _ in range(200)), depth=4):
        assert Large.alive <= 8
        del item
    assert wait_for(lambda: Large.alive == 0)


def test_a_take_with_patience_comes_back_empty_handed_while_the_source_thinks():
    thinking = threading.Event()

    def source():
        yield 1
        thinking.wait(30)
        raise OSError("gone")

    items = ahead(source())
    assert items.take(30) == 1
    assert items.take(0.01) is None and items.alive
    thinking.set()
    with pytest.raises(OSError, match="gone"):
        items.take(30)
    with pytest.raises(StopIteration):
        items.take(30)
    assert wait_for(lambda: not items.alive)
