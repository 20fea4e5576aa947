"""What docs/acknowledged.rst says is so, and its programs print what it shows."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import docutils.nodes
import pytest

from django_anyio_channels import InMemoryChannelLayer, RedisStreamsChannelLayer
from django_anyio_channels.django.config import read_config
from tests.docs.test_readme import cells_of, parsed
from tests.support.brokers import redis as brokers
from tests.support.paths import ROOT

PAGE = parsed((ROOT / "docs" / "acknowledged.rst").read_text())
BLOCKS = [block for block in PAGE.findall(docutils.nodes.literal_block) if "code" in block["classes"]]
PROGRAMS = [block for block in BLOCKS if "runs" in block["classes"]]


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if "python" in block["classes"]], ids=lambda block: f"line {block.line}"
)
def test_python_compiles(block: docutils.nodes.literal_block) -> None:
    assert ast.parse(block.astext()).body


def test_the_settings_are_accepted() -> None:
    [block] = [block for block in BLOCKS if "settings" in block["classes"]]
    names: dict[str, Any] = {}
    exec(block.astext(), names)
    settings = read_config(names["CHANNEL_LAYERS"]["default"]["CONFIG"])
    assert settings.is_acknowledged("mail.welcome")


@pytest.fixture(scope="module")
def server() -> Iterator[brokers.Redis]:
    made = brokers.plain("redis")
    with brokers.running(made):
        yield made


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: f"line {block.line}")
def test_programs_print_what_the_next_block_says(block: docutils.nodes.literal_block, server: brokers.Redis) -> None:
    after = BLOCKS[BLOCKS.index(block) + 1]
    program = block.astext().replace("redis+streams://localhost:6379/0", brokers.with_streams(server.url))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, after.astext().strip()), done.stderr


@pytest.mark.parametrize("layer", [RedisStreamsChannelLayer, InMemoryChannelLayer])
def test_the_options_are_documented_with_their_defaults(layer: type) -> None:
    [table] = [table for table in PAGE.findall(docutils.nodes.table) if "options" in table["classes"]]
    parameters = inspect.signature(layer).parameters
    documented = {name: ast.literal_eval(default) for name, (default, _) in cells_of(table).items()}
    assert documented == {name: parameters[name].default for name in documented}
    assert {"redeliver_after", "deliver_at_most", "consumer_group"} == set(documented)
