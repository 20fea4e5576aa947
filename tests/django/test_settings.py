"""`django.settings`: what each channel's settings are."""

from __future__ import annotations

import re

from django_anyio_channels.django.configuration.config import read_config

INTEGERS = re.compile(r"number\.[0-9]+")


def test_the_first_capacity_that_matches_counts() -> None:
    settings = read_config({"channel_capacity": {"http.*": 5, INTEGERS: 7, "http.special": 9}, "capacity": 3})
    names = ["http.request", "http.special", "number.12", "other", "my.http.request"]
    assert [settings.capacity_of(name) for name in names] == [5, 5, 7, 3, 3]


def test_channels_that_are_acknowledged() -> None:
    settings = read_config({"url": "redis+streams://x", "acknowledged": ["jobs", "mail.*", INTEGERS]})
    names = ["jobs", "jobs.not", "mail.welcome", "number.12", "number.x"]
    assert [settings.is_acknowledged(name) for name in names] == [True, False, True, True, False]
    assert not read_config({"acknowledged": []}).is_acknowledged("jobs")
