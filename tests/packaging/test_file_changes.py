"""A message crosses few files: the way of a `group_send` to a waiting `receive` can be read."""

from __future__ import annotations

import pytest

from tests.support.brokers import redis
from tests.support.file_changes import changes, way


@pytest.mark.parametrize(("streams", "most"), [(False, 25), (True, 31)], ids=["redis", "streams"])
def test_a_message_changes_file_seldom(streams: bool, most: int) -> None:
    server = redis.plain("redis")
    with redis.running(server):
        files = way(redis.with_streams(server.url) if streams else server.url)
    assert changes(files) <= most, "\n".join(files)


def test_in_memory_it_changes_file_as_seldom_as_today() -> None:
    files = way("memory://")
    assert (files[0], files[-1]) == ("django/layer.py", "core/serializers.py")
    assert changes(files) <= 14, "\n".join(files)
