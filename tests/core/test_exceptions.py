"""The errors that say more than their name."""

from __future__ import annotations

import pickle

from django_anyio_channels.core.exceptions import InvalidOption, QueueFull


def test_a_full_queue_knows_its_capacity() -> None:
    error = pickle.loads(pickle.dumps(QueueFull("jobs", 3)))
    assert (error.queue, error.capacity) == ("jobs", 3)
    assert str(error) == "Queue jobs is full (capacity 3)"


def test_an_invalid_option_is_a_problem_and_a_cure() -> None:
    error = pickle.loads(pickle.dumps(InvalidOption("x has an invalid value (int)", "It must be y")))
    assert (error.problem, error.cure) == ("x has an invalid value (int)", "It must be y")
    assert str(error) == "x has an invalid value (int). It must be y"
