"""`django.configuration.checks`: what triggers each system check, and that it names the setting and the cure."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from django.core.checks import ERROR, WARNING
from django.test import override_settings

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.configuration import checks
from django_anyio_channels.django.configuration.checks import check_channel_layers

BACKEND = "django_anyio_channels.AnyioChannelLayer"
KEY = "a key of twenty chars"


class Derived(AnyioChannelLayer):
    """A project's own variant."""


def found(layers: object, *, debug: bool = True) -> list[tuple[str, str, str]]:
    """The number, the message and the hint of everything that is found."""
    with override_settings(CHANNEL_LAYERS=layers, DEBUG=debug):
        return [(str(each.id), each.msg, str(each.hint)) for each in check_channel_layers()]


def entry(**config: Any) -> dict[str, Any]:
    return {"BACKEND": BACKEND, "CONFIG": config}


@pytest.mark.parametrize(
    "layers",
    [
        {"default": {"BACKEND": BACKEND}},
        {"default": entry(url="memory://"), "other": entry(url="memory://")},
        {"default": entry(symmetric_encryption_keys=[KEY], expiry=10, group_expiry=10)},
        {"default": {"BACKEND": BACKEND, "CONFIG": {}, "TEST_CONFIG": {}}},
        {"only": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"ulr": 1}}},
        {"only": {"BACKEND": "no.such.Layer"}},
        {"only": {"BACKEND": "channels.layers.get_channel_layer"}},
        {"only": {}},
        {"only": 7},
    ],
)
def test_correct_settings_and_other_packages_are_left_alone(layers: object) -> None:
    assert found(layers) == []


@pytest.mark.parametrize(
    ("number", "layer", "message", "hint"),
    [
        ("E001", entry(ulr="memory://"), "unknown key 'ulr'", "Did you mean 'url'?"),
        ("E001", {"BACKEND": BACKEND, "CONFIG": {7: 1}}, "unknown key 7", "The keys are acknowledged, bridge"),
        ("E002", entry(url="memory://", layer="x.Y"), "both 'url' and 'layer'", "Keep 'url'"),
        (
            "E002",
            entry(acknowledged=["jobs"], url="mqtt://h"),
            "'acknowledged', but MQTTChannelLayer does not",
            "Name such",
        ),
        ("E003", entry(url="memry://"), "unknown scheme 'memry'", "Did you mean 'memory'?"),
        ("E005", entry(capacity=0), "CONFIG['capacity'] has an invalid value (int)", "a whole number"),
        (
            "E005",
            {"BACKEND": BACKEND, "CONFIG": "memory://"},
            "['CONFIG'] has an invalid value (str)",
            "It must be a dict.",
        ),
        ("E006", {"BACKEND": "django_anyio_channels.AnyoChannelLayer"}, "does not exist", f"Write {BACKEND!r}."),
        (
            "E006",
            {"BACKEND": "django_anyio_channels.InMemoryChannelLayer"},
            "'django_anyio_channels.InMemoryChannelLayer' is not a subclass of AnyioChannelLayer",
            f"Write {BACKEND!r}. The broker is chosen by 'url'",
        ),
        ("E006", {"BACKEND": "django_anyio_channels.no.Layer"}, "does not exist", f"Write {BACKEND!r}."),
        (
            "E006",
            {"BACKEND": "django_anyio_channels.__dir__"},
            "is not a subclass of AnyioChannelLayer",
            f"Write {BACKEND!r}.",
        ),
        ("E007", {"BACKEND": BACKEND, 7: "x"}, "has the key 7, which Channels ignores", "['CONFIG']."),
        (
            "E007",
            {"BACKEND": BACKEND, "URL": "memory://"},
            "has the key 'URL', which Channels ignores",
            "Did you mean 'url'?",
        ),
        ("E007", {"BACKEND": BACKEND, "LOCATION": "x"}, "has the key 'LOCATION'", "Did you mean 'url'?"),
        ("E007", {"BACKEND": BACKEND, "prefix": "x"}, "has the key 'prefix'", "['CONFIG']."),
        ("W002", entry(symmetric_encryption_keys=[KEY, "short"]), "fewer than 16 characters", "token_urlsafe(32)"),
        ("W003", entry(expiry=10, group_expiry=5), "'group_expiry' (5 s) is shorter", "Raise 'group_expiry'."),
    ],
)
def test_each_mistake_has_its_id(number: str, layer: dict[str, Any], message: str, hint: str) -> None:
    [(found_number, found_message, found_hint)] = found({"default": layer})
    assert found_number == f"anyio_channels.{number}"
    assert found_message.startswith("CHANNEL_LAYERS['default']")
    assert message in found_message
    assert hint in found_hint


def test_channel_layers_is_a_dict() -> None:
    [(number, message, hint)] = found(["memory://"])
    assert number == "anyio_channels.E005"
    assert message == "CHANNEL_LAYERS has an invalid value (list)."
    assert hint == "It must be a dict."


@pytest.mark.parametrize("layers", [None, {}])
def test_no_layers_at_all_are_a_warning(layers: object) -> None:
    [(number, message, hint)] = found(layers)
    assert number == "anyio_channels.W007"
    assert message == "CHANNEL_LAYERS is not set, so consumers have no channel layer."
    assert f"{{'default': {{'BACKEND': {BACKEND!r}}}}}" in hint


def test_all_mistakes_of_all_aliases_are_reported_at_once() -> None:
    layers = {
        "default": {"BACKEND": BACKEND, "URL": "x", "CONFIG": {"ulr": 1}},
        "other": entry(url="some://broker", prefix=[]),
        "warned": entry(symmetric_encryption_keys=["short"], expiry=10, group_expiry=5),
    }
    assert [(number[-4:], message.partition(":")[0]) for number, message, _ in found(layers, debug=False)] == [
        ("E007", "CHANNEL_LAYERS['default'] has the key 'URL', which Channels ignores."),
        ("E001", "CHANNEL_LAYERS['default']"),
        ("E005", "CHANNEL_LAYERS['other']"),
        ("W001", "CHANNEL_LAYERS['warned'] is the in-memory layer, and DEBUG is False."),
        ("W002", "CHANNEL_LAYERS['warned']"),
        ("W003", "CHANNEL_LAYERS['warned']"),
    ]


def test_errors_are_errors_and_warnings_are_warnings() -> None:
    layers = {"chat": entry(symmetric_encryption_keys=["short"], expiry=10, group_expiry=5), "other": entry(ulr=1)}
    with override_settings(CHANNEL_LAYERS=layers, DEBUG=False):
        levels = {str(each.id)[-4:]: each.level for each in check_channel_layers()}
    assert levels == {"W001": WARNING, "W002": WARNING, "W003": WARNING, "W005": WARNING, "E001": ERROR}


def test_in_memory_without_debug_is_a_warning() -> None:
    [(number, message, hint)] = found({"default": entry()}, debug=False)
    assert number == "anyio_channels.W001"
    assert "is the in-memory layer, and DEBUG is False" in message
    assert "set 'url' to a broker" in hint
    assert found({"default": entry(url=["memory://", "memory://"])}, debug=False) == [(number, message, hint)]


@pytest.mark.usefixtures("measured_programs")
def test_djangos_test_runner_makes_debug_false_and_no_warning() -> None:
    program = """
from django.test.utils import setup_test_environment
setup_test_environment(debug=False)
"""
    layers = {"default": entry()}
    assert "W001" not in run_checks(before="", layers=layers, expected="", status=0, then=program)
    assert "W001" in run_checks(before="", layers=layers, expected="", status=0, then="settings.DEBUG = False")


def test_a_worker_of_the_in_memory_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for ever: what other processes send stays with them."""
    monkeypatch.setattr(sys, "argv", ["manage.py", "runworker", "--layer", "jobs", "thumbnails"])
    layers = {"default": entry(), "jobs": entry()}
    [(number, message, hint)] = found(layers)
    assert number == "anyio_channels.E009"
    assert message == "CHANNEL_LAYERS['jobs'] is the in-memory layer, so runworker would receive nothing."
    assert "set 'url' to a broker" in hint
    monkeypatch.setattr(sys, "argv", ["manage.py", "runworker", "thumbnails"])
    assert "['default']" in found(layers)[0][1]
    for arguments in (["runserver"], [], ["runworker", "--layer=other", "jobs"]):
        monkeypatch.setattr(sys, "argv", ["manage.py", *arguments])
        assert found(layers) == []


def test_two_aliases_on_one_broker_need_two_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the comparison is looked at here: in memory, every alias has a broker of its own."""
    monkeypatch.setattr(checks, "_check_entry", lambda alias, entry: [])
    shared = "some://broker"
    [(number, message, hint)] = found({"default": entry(url=shared), "other": entry(url=shared, prefix="asgi")})
    assert number == "anyio_channels.W004"
    assert "['default'] and CHANNEL_LAYERS['other'] share a broker and a prefix" in message
    assert "its own 'prefix'" in hint
    several = {"default": entry(url=["some://first", shared]), "other": entry(url=[shared, "some://third"])}
    assert [number for number, _, _ in found(several)] == ["anyio_channels.W004"]
    apart = {"default": entry(url=shared), "b": entry(url=shared, prefix="b"), "c": {"BACKEND": BACKEND, "CONFIG": 7}}
    assert found(apart) == []


def test_a_layer_called_default_is_required() -> None:
    [(number, message, hint)] = found({"chat": entry()})
    assert number == "anyio_channels.W005"
    assert "no layer called 'default'" in message
    assert "channel_layer_alias" in hint


def test_a_derived_layer_is_checked_too() -> None:
    [(number, _, _)] = found({"default": {"BACKEND": f"{__name__}.Derived", "CONFIG": {"ulr": 1}}})
    assert number == "anyio_channels.E001"


@pytest.mark.usefixtures("measured_programs")
def test_a_missing_package_is_named_with_its_extra() -> None:
    assert "anyio_channels.E004" in run_checks(
        before="sys.modules['cryptography.fernet'] = None",
        layers={"default": entry(symmetric_encryption_keys=[KEY])},
        expected="pip install django-anyio-channels[encryption]",
    )


@pytest.mark.usefixtures("measured_programs")
def test_the_app_registers_the_checks() -> None:
    assert "anyio_channels.E001" in run_checks(before="", layers={"default": entry(ulr=1)}, expected="'url'?")
    run_checks(before="", layers={"default": entry()}, expected="", status=0)


def run_checks(*, before: str, layers: object, expected: str, status: int = 1, then: str = "") -> str:
    """What ``manage.py check`` says, in a process of its own."""
    program = f"""
import sys
{before}
import django
from django.conf import settings
from django.core.management import call_command

settings.configure(INSTALLED_APPS=["channels", "django_anyio_channels"], DEBUG=True, CHANNEL_LAYERS={layers!r})
django.setup()
{then}
call_command("check", tags=["channel_layers"])
"""
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    assert expected in ended.stderr
    return ended.stderr
