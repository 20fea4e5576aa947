"""What docs/guides/workers.rst says of acknowledgement is so."""

from __future__ import annotations

import ast
import inspect

import pytest

from django_anyio_channels import InMemoryChannelLayer, RedisStreamsChannelLayer
from django_anyio_channels.django.configuration.config import read_config

from .pages import page

PAGE = page("docs/guides/workers.rst")


def test_the_settings_name_what_is_acknowledged() -> None:
    settings = read_config(PAGE.run("settings")["CHANNEL_LAYERS"]["default"]["CONFIG"])
    assert settings.is_acknowledged("mail.welcome")


@pytest.mark.parametrize("layer", [RedisStreamsChannelLayer, InMemoryChannelLayer])
def test_the_options_are_documented_with_their_defaults(layer: type) -> None:
    parameters = inspect.signature(layer).parameters
    documented = {name: ast.literal_eval(default) for name, (default, _) in PAGE.rows("options").items()}
    assert documented == {name: parameters[name].default for name in documented}
    assert {"redeliver_after", "deliver_at_most", "consumer_group"} == set(documented)
