"""The settings of docs/brokers/redis.rst are settings that the layer takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import docutils.nodes

from django_anyio_channels.django.config import read_config
from tests.support.brokers.redis import make_certificates
from tests.support.paths import ROOT

from .test_readme import parsed

PAGE = parsed((ROOT / "docs" / "brokers" / "redis.rst").read_text())


def address_of(config: dict[str, Any]) -> str:
    [layer] = read_config(config).make_layers()
    return layer.address


def test_the_settings(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    remapped, secure = [
        block.astext() for block in PAGE.findall(docutils.nodes.literal_block) if "python" in block["classes"]
    ]
    names: dict[str, Any] = {}
    exec(remapped, names)
    assert address_of(names["CHANNEL_LAYERS"]["default"]["CONFIG"]) == "redis+cluster://redis.example.com:7000"
    exec(secure.replace("/etc/ssl/own.crt", str(tmp_path / "ca.crt")), names)
    assert address_of(names["CONFIG"]) == "rediss+sentinel://s1:26379,s2:26379/mymaster/0"
