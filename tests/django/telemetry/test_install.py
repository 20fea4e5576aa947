"""`telemetry.install`: nothing is imported unless it is asked for, and what is missing is named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from django_anyio_channels import AnyioChannelLayer, InMemoryChannelLayer
from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.django.settings import ConfigError
from django_anyio_channels.django.telemetry.sources import alias_of
from tests.support.programs import failing

IMPORTS = """
import json, sys
from django_anyio_channels import AnyioChannelLayer
layer = AnyioChannelLayer(**{config!r})
layer.group_send_sync("g", {{"type": "x"}})
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}} & {{"prometheus_client", "opentelemetry"}})))
"""


@pytest.mark.parametrize("telemetry", [[], ["prometheus"], ["opentelemetry"], ["opentelemetry", "prometheus"]])
def test_only_what_is_asked_for_is_imported(telemetry: list[str]) -> None:
    program = IMPORTS.format(config={"telemetry": telemetry})
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    names = {"prometheus": "prometheus_client", "opentelemetry": "opentelemetry"}
    assert json.loads(done.stdout) == sorted(names[each] for each in telemetry)


@pytest.mark.usefixtures("measured_programs")
@pytest.mark.parametrize(
    ("extra", "package", "program"),
    [
        ("prometheus", "prometheus_client", "package.AnyioChannelLayer(telemetry='prometheus')"),
        ("opentelemetry", "opentelemetry.metrics", "package.AnyioChannelLayer(telemetry='opentelemetry')"),
        ("django", "channels.layers", "package.PrometheusCollector"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(extra: str, package: str, program: str) -> None:
    error = failing(f"import sys; sys.modules[{package!r}] = None; import django_anyio_channels as package; {program}")
    assert f"pip install django-anyio-channels[{extra}]" in error
    assert "MissingDriver" in error


@pytest.mark.parametrize("value", ["statsd", ["prometheus", 5], {"prometheus": True}, True, None])
def test_who_measures_must_be_known(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({"telemetry": value})
    assert "CONFIG['telemetry'] has an invalid value" in caught.value.message
    assert caught.value.hint == "It must be a list of 'prometheus' and 'opentelemetry', or one of them."
    assert caught.value.code == "E005"


def test_one_name_or_a_list_of_them() -> None:
    assert read_config({}).telemetry == ()
    assert read_config({"telemetry": "prometheus"}).telemetry == ("prometheus",)
    both = ["opentelemetry", "prometheus", "opentelemetry"]
    assert read_config({"telemetry": both}).telemetry == ("opentelemetry", "prometheus")


class CustomLayer(InMemoryChannelLayer):
    pass


def test_a_layer_knows_the_kind_of_its_broker() -> None:
    kinds = ["memory", "redis", "redis+streams", "postgresql", "mqtt"]
    assert [AnyioChannelLayer(url=f"{each}://{'h' if each != 'memory' else ''}").broker for each in kinds] == kinds
    assert AnyioChannelLayer(url=["rediss://h", "rediss://i"]).broker == "redis"
    assert AnyioChannelLayer(layer=CustomLayer).broker == "custom"


def test_a_layer_without_an_alias() -> None:
    assert alias_of(AnyioChannelLayer()) == ""
