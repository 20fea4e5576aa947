"""The reference lists what the sources have: settings, schemes, checks, exceptions, names, statistics."""

from __future__ import annotations

import ast
import inspect
import re

import docutils.nodes
import pytest
from channels.layers import BaseChannelLayer

import django_anyio_channels
from django_anyio_channels import AnyioChannelLayer, ChannelLayerError
from django_anyio_channels.django import settings
from django_anyio_channels.django.configuration import checks, config, databases, factory

from .pages import cells_of, page, parsed

SETTINGS = page("docs/reference/settings.rst")
CHECKS = page("docs/reference/checks.rst")

OF_THE_PACKAGE = {
    *("address", "address_groups", "frame", "measurements", "close_if_changed_sync"),
    *("node_reports", "queue_states", "dead_letters", "remove_dead_letters", "diagnose"),
}
"""Methods of the channel layer that the package itself calls: transactions, collectors, ``manage.py channels``."""


def test_settings_are_all_keys_and_no_other() -> None:
    assert sorted(SETTINGS.rows("settings")) == sorted(config.KEYS)


def test_settings_have_the_defaults() -> None:
    listed = {key: ast.literal_eval(default) for key, (default, _) in SETTINGS.rows("settings").items() if default}
    fields = {name: field.default for name, field in settings.Settings.__dataclass_fields__.items() if name in listed}
    assert len(fields) >= 7
    lists: dict[str, object] = {key: [] for key in ("acknowledged", "close_on", "telemetry")}
    assert {name: listed[name] for name in fields} == {**fields, **lists, "channel_capacity": {}, "overflow": {}}


def test_brokers_are_all_schemes() -> None:
    choosing = page("docs/choosing-a-broker.rst")
    listed = {scheme for first in choosing.rows("urls") for scheme in re.findall(r"([a-z+]+)://", first)}
    # The text says that these mean the same.
    assert listed == {scheme for scheme in factory.LAYERS if not scheme.startswith("valkey")}
    assert {scheme.replace("redis", "valkey", 1) for scheme in listed} <= set(factory.LAYERS)


def test_checks_are_those_of_the_module() -> None:
    [table] = parsed(inspect.getdoc(checks) or "").findall(docutils.nodes.table)
    assert CHECKS.rows("checks") == cells_of(table)


def test_every_check_that_can_be_found_is_listed() -> None:
    rooms = (config, databases, factory, settings)
    sources = inspect.getsource(checks).replace(checks.__doc__ or "", "") + "".join(map(inspect.getsource, rooms))
    assert {f"anyio_channels.{code}" for code in re.findall(r"\b[EW]0\d\d\b", sources)} == set(CHECKS.rows("checks"))


def test_exceptions_are_all_that_are_public() -> None:
    public = {name for name in django_anyio_channels.__all__ if is_exception(getattr(django_anyio_channels, name))}
    assert documented("docs/reference/exceptions.rst") == public | {"ConfigError"}


def is_exception(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, ChannelLayerError)


def test_the_api_is_all_that_is_public() -> None:
    pages = ("docs/reference/api.rst", "docs/reference/exceptions.rst", "docs/reference/custom-layers.rst")
    assert set(django_anyio_channels.__all__) <= {name for each in pages for name in documented(each)}


def documented(name: str) -> set[str]:
    names = re.findall(r"^\.\. auto(?:class|function|exception):: ([\w.]+)(?:\(\))?$", page(name).text, re.MULTILINE)
    return {each.rpartition(".")[2] for each in names}


def test_every_method_of_the_layer_is_documented() -> None:
    [members] = re.findall(r"autoclass:: AnyioChannelLayer\n    :members: (.*)", page("docs/reference/api.rst").text)
    own = {
        name
        for each in AnyioChannelLayer.__mro__
        if each.__module__.startswith("django_anyio_channels.")
        for name, value in vars(each).items()
        if name[0] != "_" and inspect.isfunction(value) and inspect.getdoc(value)
    }
    of_channels = set(vars(BaseChannelLayer))
    assert own - of_channels - set(members.split(", ")) == OF_THE_PACKAGE


@pytest.mark.parametrize("key", sorted(AnyioChannelLayer(url="memory://").statistics()))
def test_statistics_are_explained(key: str) -> None:
    assert key in page("docs/reference/statistics.rst").rows("statistics")


@pytest.mark.parametrize("name", ["redis-providers", "postgresql", "mqtt"])
def test_each_provider_says_how_that_is_known(name: str) -> None:
    rows = page(f"docs/brokers/{name}.rst").rows("providers")
    assert len(rows) >= 5
    assert {known for known, _ in rows.values()} <= {"tested", "read in its documentation", "does not work"}


def test_each_point_about_another_layer_has_its_source() -> None:
    for point, (_, others) in page("docs/comparison.rst").rows("comparison").items():
        for sentence in re.findall(r"[^.]+(?:\.\d[^.]*)*\.(?=\s|$)", others):
            assert sentence == "None." or re.search(r"\((?:.*)(source|measured|tried|#\d+)", sentence, re.DOTALL), point
