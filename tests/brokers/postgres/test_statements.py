"""The SQL files and how they are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_anyio_channels.brokers.postgres import statements
from django_anyio_channels.brokers.postgres.statements import listen, text_array, unlisten

FILES = sorted((Path(statements.__file__).parent / "sql").glob("*.sql"))


def head_and_body(file: Path) -> tuple[str, str]:
    lines = file.read_text().splitlines()
    head = [line for line in lines if line.startswith("--")]
    assert lines[: len(head)] == head
    return "\n".join(head), "\n".join(lines[len(head) :])


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_each_file_says_what_it_expects_and_returns(file: Path) -> None:
    head, body = head_and_body(file)
    assert re.search(r"^-- Expects ", head, re.MULTILINE)
    assert re.search(r"\bReturns ", head, re.MULTILINE)
    assert set(re.findall(r"\$\d", head)) == set(re.findall(r"\$\d", body))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_each_file_is_a_statement_without_its_head(file: Path) -> None:
    _, body = head_and_body(file)
    assert getattr(statements, file.stem.upper()) == body


def test_a_transaction_has_the_settings_of_a_session() -> None:
    def settings(script: str, verb: str) -> Iterator[str]:
        for line in script.split(";"):
            assert line.strip().startswith(verb)
            yield line.strip().removeprefix(verb)

    isolation, *session = settings(statements.SESSION_SETTINGS, "SET ")
    assert isolation == "default_transaction_isolation = 'read committed'"
    assert session == list(settings(statements.TRANSACTION_SETTINGS, "SET LOCAL "))


def test_names_of_channels_are_quoted() -> None:
    assert listen("a", 'b"c') == 'LISTEN "a"; LISTEN "b""c"'
    assert unlisten("a") == 'UNLISTEN "a"'


def test_bytes_and_numbers_as_text() -> None:
    assert text_array([b"\x00\xff", 7, 0.5]) == [r"\x00ff", "7", "0.5"]
