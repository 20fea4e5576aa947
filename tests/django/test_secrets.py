"""No password is in what Django and error trackers show of a layer that cannot connect."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils.log import AdminEmailHandler

from django_anyio_channels import AnyioChannelLayer, ListenerClosed
from django_anyio_channels.django.configuration.config import read_config

SECRET = secrets.token_hex(12)
LAYER: list[AnyioChannelLayer] = []
ERRORS: list[BaseException] = []


def view(request: HttpRequest) -> HttpResponse:
    try:
        LAYER[0].group_send_sync("room", {"type": "chat.message"})
    except ListenerClosed as error:
        ERRORS.append(error)
        raise
    raise AssertionError("there is no broker")


urlpatterns = [path("", view)]


@pytest.fixture(scope="module")
def hangs_up() -> Iterator[int]:
    """The port of a server that reads what a client logs in with, and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


class Mails(AdminEmailHandler):
    """What is mailed to ADMINS of each error of a request, with the variables of all frames."""

    def __init__(self) -> None:
        super().__init__(include_html=True)
        self.bodies: list[str] = []

    def send_mail(self, subject: Any, message: Any, *args: Any, **kwargs: Any) -> None:
        self.bodies.append(f"{subject} {message} {kwargs['html_message']}")


@contextmanager
def mails_to_admins() -> Iterator[list[str]]:
    handler, logger = Mails(), logging.getLogger("django.request")
    logger.addHandler(handler)
    yield handler.bodies
    logger.removeHandler(handler)


def variables(error: BaseException | None) -> Iterator[str]:
    """What an error tracker sends: the variables of all frames of an error and its causes."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        for frame, _ in walk_tb(error.__traceback__):
            yield repr(frame.f_locals)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://:{secret}@127.0.0.1:{port}", {}),
        ("redis+streams://:{secret}@127.0.0.1:{port}", {}),
        ("redis+sentinel://:{secret}@127.0.0.1:{port}/m", {"sentinel_kwargs": {"password": SECRET}}),
        ("redis+cluster://:{secret}@127.0.0.1:{port}", {}),
        ("postgresql://user:{secret}@127.0.0.1:{port}/db", {}),
        ("mqtt://user:{secret}@127.0.0.1:{port}", {}),
    ],
    ids=lambda value: value.partition("://")[0] if isinstance(value, str) else "",
)
def test_a_layer_that_cannot_connect_shows_no_password(
    url: str, options: dict[str, Any], hangs_up: int, caplog: pytest.LogCaptureFixture
) -> None:
    LAYER[:] = [AnyioChannelLayer(url=url.format(secret=SECRET, port=hangs_up), options=options, publish_timeout=0.5)]
    ERRORS.clear()
    settings = {"DEBUG": True, "ROOT_URLCONF": __name__, "ALLOWED_HOSTS": ["*"], "USE_I18N": False}
    with override_settings(**settings), mails_to_admins() as mails:
        for _ in range(30):
            page = Client(raise_request_exception=False).get("/").content.decode()
            if ERRORS[-1].__cause__ is not None:  # the driver has tried, and said why not
                break
    for text in (page, mails[-1]):
        assert "The above exception" in text
        assert "ListenerClosed" in text
    for text in (page, *mails, caplog.text, *variables(ERRORS[-1]), repr(LAYER[0])):
        assert SECRET not in text


@pytest.mark.parametrize(
    "config",
    [
        {"url": f"redis://:{SECRET}@h", "symmetric_encryption_keys": [SECRET]},
        {"url": f"postgresql://u:{SECRET}@h"},
        {"url": f"mqtt://u:{SECRET}@h"},
        {"url": "redis://h", "options": {"password": SECRET}},
    ],
    ids=lambda config: config["url"].partition("://")[0],
)
def test_settings_and_layers_show_no_password(config: dict[str, Any]) -> None:
    settings = read_config(config)
    [layer] = settings.make_layers()
    layer_of_django = AnyioChannelLayer(**config)
    shown = (settings, settings.layer_factories, settings.serializer, layer, layer.address, layer_of_django)
    for each in (*shown, vars(layer), vars(layer_of_django)):
        assert SECRET not in repr(each)
