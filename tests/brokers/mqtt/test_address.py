"""URLs, keyword arguments, and what is refused."""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb
from typing import Any

import pytest

from django_anyio_channels import ListenerClosed, MQTTChannelLayer
from django_anyio_channels.brokers.mqtt.address import make_options
from django_anyio_channels.brokers.mqtt.packets import Will
from django_anyio_channels.core.exceptions import InvalidOption
from tests.support.brokers.mosquitto import Mosquitto
from tests.support.brokers.redis import make_certificates


def test_a_url_with_every_option() -> None:
    options = make_options(
        "mqtts://us%40er:pa%3Ass@broker.example:1234/?client_id=me&session_expiry=60&qos=2&no_local=true"
        "&keepalive=7&probe_interval=0.5&connect_timeout=3&receive_maximum=50"
        f"&ca_file={__file__}"
    )
    assert (options.host, options.port, options.tls) == ("broker.example", 1234, True)
    assert (options.username, options.password) == ("us@er", "pa:ss")
    assert (options.client_id, options.session_expiry, options.qos, options.no_local) == ("me", 60, 2, True)
    assert (options.keepalive, options.probe_interval, options.connect_timeout) == (7, 0.5, 3.0)
    assert (options.receive_maximum, options.ca_file) == (50, __file__)


def test_keyword_arguments_override_the_url() -> None:
    options = make_options("mqtt://user:old@host/?qos=0", password="new", qos=1, port=5)
    assert (options.username, options.password, options.qos, options.port) == ("user", "new", 1, 5)


@pytest.mark.parametrize(("tls", "port"), [(False, 1883), (True, 8883)])
def test_the_usual_ports(tls: bool, port: int) -> None:
    assert make_options(None, host="h", tls=tls).port == port


def test_every_layer_has_its_own_client_id() -> None:
    assert make_options(None).client_id != make_options(None).client_id


def test_the_address_holds_no_secret() -> None:
    layer = MQTTChannelLayer(host="::1", username="anna", password="geheim", tls=ssl.create_default_context())
    assert layer.address == "mqtts://anna@[::1]:8883"


def test_an_ssl_context_is_used_as_it_is() -> None:
    context = ssl.create_default_context()
    assert make_options(None, tls=context).ssl_context() is context


def test_a_client_certificate(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    options = make_options(
        "mqtts://host",
        ca_file=str(tmp_path / "ca.crt"),
        cert_file=str(tmp_path / "server.crt"),
        key_file=str(tmp_path / "server.key"),
    )
    assert isinstance(options.ssl_context(), ssl.SSLContext)
    with pytest.raises(InvalidOption, match="^cert_file has an invalid value"):
        make_options("mqtts://host", cert_file=str(tmp_path / "missing.crt"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://host", "looks like mqtt://user:password@host:1883"),
        ("mqtt://", "looks like mqtt://"),
        ("mqtt+streams://host", "looks like mqtt://"),
        ("mqtt://one,two", r"looks like mqtt://.* not 'mqtt://one,two'"),
        ("mqtt://host:none", "cannot be read: .*a port is a number"),
        ("mqtt://host/topic", "has a path; options follow after a question mark"),
        ("mqtt://host/?cleint_id=x", "unknown option 'cleint_id'. Did you mean 'client_id'"),
        ("mqtt://host/?zzz=x", "unknown option 'zzz'. Known are ca_file"),
        ("mqtt://host/?qos=high", "qos has an invalid value in the MQTT URL. It must be one of 0, 1, 2"),
        ("mqtt://host/?qos=3", r"qos has an invalid value \(int\)"),
        ("mqtt://host/?probe_interval=nan", r"probe_interval has an invalid value \(float\)"),
        ("mqtts://host/?ca_file=/no/such/file", r"ca_file has an invalid value \(str\)"),
        ("mqtt://host/?version=4", "unknown option 'version'"),
        ("mqtt://host/?no_local=perhaps", "no_local has an invalid value in the MQTT URL. It must be True or False"),
    ],
)
def test_an_invalid_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MQTTChannelLayer(url)


def test_a_refused_url_does_not_show_its_password() -> None:
    with pytest.raises(ValueError, match="host/x") as caught:
        MQTTChannelLayer("mqtt://anna:geheim@host/x")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qos": 3}, r"qos has an invalid value \(int\)\. It must be one of 0, 1, 2"),
        ({"qos": True}, r"qos has an invalid value \(bool\)"),
        ({"url": 7}, r"url has an invalid value \(int\)"),
        ({"ca_file": __file__}, "ca_file and cert_file need TLS"),
        ({"session_expiry": 5}, "session_expiry needs a client_id of this node alone"),
        *(
            ({name: value}, f"^{name} has an invalid value")
            for name, values in {
                "probe_interval": (0, "100", math.nan, True, -1),
                "connect_timeout": (0, "100", math.inf),
                "keepalive": (0, 1.5, 70_000),
                "receive_maximum": (0, 70_000),
                "session_expiry": (-1, "60"),
                "port": (-1, 65_536, "1883"),
                "host": ("", 7),
                "username": (7,),
                "password": (b"x",),
                "tls": ("yes", 1),
                "key_file": ("/no/such/file",),
                "no_local": (1, "true"),
                "will": ("gone",),
            }.items()
            for value in values
        ),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MQTTChannelLayer(**options)


def test_unknown_options_are_refused() -> None:
    options: dict[str, Any] = {"clientid": "x"}
    with pytest.raises(TypeError, match="clientid"):
        MQTTChannelLayer(**options)


def test_a_client_id_too_long_for_the_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 65535 bytes in UTF-8, not 65536"):
        make_options(None, client_id="x" * 65_536).connect_packet()


def test_the_delay_of_a_will_is_sent() -> None:
    delay = b"\x18\x00\x00\x00\x05"
    assert delay in make_options(None, will=Will("t", b"gone", delay=5)).connect_packet()
    assert delay not in make_options(None, will=Will("t", b"gone")).connect_packet()


def test_the_repr_does_not_show_the_password() -> None:
    assert "geheim" not in repr(make_options("mqtt://anna:geheim@host"))


def variables(error: BaseException | None) -> Iterator[str]:
    """What an error report shows: the text of each error of the chain, and the variables of each frame."""
    while error is not None:
        yield str(error)
        frames = walk_tb(error.__traceback__)
        for frame in [frame for frame, _ in frames if frame.f_code.co_filename != __file__]:
            yield from map(repr, frame.f_locals.values())
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("mqtt://anna:geheim@host/path", {}),
        ("mqtt://anna:geheim@host:0", {}),
        ("mqtt://anna:geheim@one,two", {}),
        ("mqtt://anna:geheim@host/?qos=x", {}),
        ("mqtt://anna:geheim@host/?qos=5", {}),
        ("mqtt://host", {"password": "geheim", "qos": 7}),
        ("mqtt://host", {"password": "geheim" * 20_000}),
    ],
)
def test_an_error_report_about_options_has_no_secret(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        MQTTChannelLayer(url, **options)
    assert not [each for each in variables(caught.value) if "geheim" in each]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
async def test_an_error_report_about_a_connection_has_no_secret(scheme: str, protected_broker: Mosquitto) -> None:
    layer = MQTTChannelLayer(f"{scheme}://anna:geheim@127.0.0.1:{protected_broker.port}")
    with pytest.raises(ListenerClosed) as caught:
        await layer.connect()
    assert not [each for each in variables(caught.value) if "geheim" in each]
