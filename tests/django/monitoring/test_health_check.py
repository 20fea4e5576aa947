"""The check for django-health-check, run by its own view."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import json
import sys
from typing import Any

import pytest
from django.test import RequestFactory, override_settings
from health_check.views import HealthCheckView

from django_anyio_channels import ChannelLayerHealthCheck, MissingDriver
from tests.support.brokers.server import free_port

OURS = "django_anyio_channels.AnyioChannelLayer"


def respond(checks: list[Any]) -> tuple[int, dict[str, str]]:
    async def main() -> Any:
        return await HealthCheckView.as_view(checks=checks)(RequestFactory().get("/health/?format=json"))

    response = asyncio.run(main())
    return response.status_code, json.loads(response.content)


@pytest.mark.parametrize(
    "check", [ChannelLayerHealthCheck, "django_anyio_channels.ChannelLayerHealthCheck"], ids=["class", "path"]
)
def test_a_layer_that_works(check: Any) -> None:
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": OURS}}):
        assert respond([check]) == (200, {"ChannelLayerHealthCheck(alias='default')": "OK"})


def test_one_that_does_not_shows_no_address(caplog: pytest.LogCaptureFixture) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    layers = {
        "gone": {"BACKEND": OURS, "CONFIG": {"url": url}},
        "foreign": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    }
    timeout = datetime.timedelta(seconds=0.2)
    with override_settings(CHANNEL_LAYERS=layers):
        status, results = respond([(ChannelLayerHealthCheck, {"alias": alias, "timeout": timeout}) for alias in layers])
    assert status == 500
    assert results == {
        "ChannelLayerHealthCheck(alias='gone')": "Unavailable: No round trip through the channel layer 'gone'",
        "ChannelLayerHealthCheck(alias='foreign')": "Unavailable: No round trip through the channel layer 'foreign'",
    }
    assert f"{url}/0 could not be reached within 0.2 s" in caplog.text


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "health_check.base", None)
    monkeypatch.delitem(sys.modules, "django_anyio_channels.django.monitoring.health_check")
    with pytest.raises(MissingDriver, match=r"pip install django-anyio-channels\[django,health\]$"):
        importlib.import_module("django_anyio_channels.django.monitoring.health_check")
