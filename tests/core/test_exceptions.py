"""The errors that say more than their name."""

from __future__ import annotations

import pickle

import pytest

from django_anyio_channels.core.exceptions import InvalidOption, QueueFull, drop_tracebacks


def test_a_full_queue_knows_its_capacity() -> None:
    error = pickle.loads(pickle.dumps(QueueFull("jobs", 3)))
    assert (error.queue, error.capacity) == ("jobs", 3)
    assert str(error) == "Queue jobs is full (capacity 3)"


def test_an_invalid_option_is_a_problem_and_a_cure() -> None:
    error = pickle.loads(pickle.dumps(InvalidOption("x has an invalid value (int)", "It must be y")))
    assert (error.problem, error.cure) == ("x has an invalid value (int)", "It must be y")
    assert str(error) == "x has an invalid value (int). It must be y"


def test_tracebacks_are_dropped_in_the_whole_chain_and_in_groups() -> None:
    first, second = ValueError("first"), ValueError("second")
    with pytest.raises(ExceptionGroup) as caught:
        try:
            raise first
        except ValueError:
            raise ExceptionGroup("several", [first, second]) from KeyError("cause")
    first.__context__ = caught.value  # a circle ends, too
    drop_tracebacks(caught.value)
    assert [error.__traceback__ for error in (caught.value, first, second)] == [None] * 3
    assert caught.value.exceptions == (first, second)
    assert isinstance(caught.value.__cause__, KeyError)
