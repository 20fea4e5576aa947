"""`django.presence.methods`: what ``group_add`` refuses, and a layer without presence."""

from __future__ import annotations

from typing import Any

import pytest

from django_anyio_channels import AnyioChannelLayer, GroupCount, InMemoryChannelLayer, NotSupported
from tests.django.helpers import layers

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"member": 42}, TypeError, r"member must be a str of 1 to 200 characters, not int; .* take str\(user\.pk\)"),
        ({"member": ""}, TypeError, "not 0 characters"),
        ({"member": "x" * 201}, TypeError, "not 201 characters"),
        ({"meta": {}}, TypeError, "got meta without member"),
        ({"member": "42", "meta": [1]}, TypeError, "meta must be a dict, not list"),
        ({"member": "42", "meta": {"x": object()}}, TypeError, "object"),
        ({"member": "42", "meta": {"x": "x" * 2048}}, ValueError, "meta has 2054 bytes, more than 2048"),
    ],
)
async def test_what_cannot_be_a_member(options: dict[str, Any], error: type[Exception], words: str) -> None:
    [layer] = layers(1)
    channel = await layer.new_channel()
    with pytest.raises(error, match=words):
        await layer.group_add("room", channel, **options)
    assert await layer.group_members("room") == {}


async def test_a_normal_channel_is_no_members() -> None:
    [layer] = layers(1)
    with pytest.raises(ValueError, match="'worker' is a normal channel, which cannot be a member's"):
        await layer.group_add("room", "worker", member="42")


async def test_names_are_checked() -> None:
    [layer] = layers(1)
    for method in (layer.group_members, layer.group_count):
        with pytest.raises(TypeError, match="Group name"):
            await method("a room")
    for blocking in (layer.group_members_sync, layer.group_count_sync):
        with pytest.raises(TypeError, match="Group name"):
            blocking("a room")


class WithoutPresence(InMemoryChannelLayer):
    """A custom layer."""

    put_presence = None  # type: ignore[assignment]


async def test_a_layer_without_presence_says_so() -> None:
    layer = AnyioChannelLayer(layer=WithoutPresence)
    channel = await layer.new_channel()
    with pytest.raises(NotSupported, match="WithoutPresence keeps no presence, so group_add takes no member; override"):
        await layer.group_add("room", channel, member="42")
    with pytest.raises(NotSupported, match="WithoutPresence"):
        await layer.group_count("room")
    await layer.group_add("room", channel)


async def test_results_are_named() -> None:
    [layer] = layers(1)
    channel = await layer.new_channel()
    await layer.group_add("room", channel, member="42", meta={"name": "Ana"})
    assert await layer.group_count("room") == GroupCount(channels=1, members=1)
    member = (await layer.group_members("room"))["42"]
    assert member.metas == [{"name": "Ana"}]
    assert member.since.utcoffset() is not None
    await layer.group_add("other", channel)
    assert await layer.group_count("other") == (0, 0)
    await layer.flush()
    assert await layer.group_count("room") == (0, 1)  # for the grace period
