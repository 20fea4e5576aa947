"""What docs/guides/workers.rst says of acknowledgement is so."""

from __future__ import annotations

import ast
import inspect

from django_anyio_channels import RedisStreamsChannelLayer
from django_anyio_channels.django.config import read_config

from .pages import page

PAGE = page("docs/guides/workers.rst")


def test_the_settings_name_what_is_acknowledged() -> None:
    settings = read_config(PAGE.run("settings")["CHANNEL_LAYERS"]["default"]["CONFIG"])
    assert settings.is_acknowledged("mail.welcome")


def test_the_options_are_documented_with_their_defaults() -> None:
    parameters = inspect.signature(RedisStreamsChannelLayer).parameters
    documented = {name: ast.literal_eval(default) for name, (default, _) in PAGE.rows("options").items()}
    assert documented == {name: parameters[name].default for name in documented}
    assert {"redeliver_after", "deliver_at_most", "consumer_group"} == set(documented)
