"""The validator of options: what each kind takes, and errors that show no value."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from django_anyio_channels.core.exceptions import ChannelLayerError, InvalidOption
from django_anyio_channels.core.options import (
    FILE,
    FLAG,
    LARGEST_COUNT,
    LONGEST,
    PORT,
    SECONDS,
    TEXT,
    Option,
    check_option,
    check_options,
    choice,
    count,
    instance_of,
    option_names,
    refuse_unknown_options,
    seconds,
)

NO_NUMBERS: list[object] = [None, "", "100", b"1", True, False, [], {}, 1j, math.nan, math.inf, -math.inf, object()]


@pytest.mark.parametrize(
    ("option", "valid", "invalid"),
    [
        (SECONDS, [1, 0.001, 1e9, LONGEST], [0, 0.0, -1, -0.0, 1e9 + 1, 10**400, *NO_NUMBERS]),
        (seconds(zero=True, most=60), [0, 0.0, 60], [-1, 61, *NO_NUMBERS]),
        (count("messages"), [1, LARGEST_COUNT], [0, -1, 1.0, LARGEST_COUNT + 1, *NO_NUMBERS]),
        (count("bytes", least=0, most=3), [0, 3], [-1, 4, 2.5, *NO_NUMBERS]),
        (choice(0, 1, "a"), [0, 1, "a"], [2, 0.0, True, False, None, "b", [], {}]),
        (instance_of(dict, list, wanted="a dict or a list"), [{}, []], [(), None, "", 1]),
        (TEXT, ["a", " "], ["", b"a", None, 1]),
        (FLAG, [True, False], [0, 1, None, "true"]),
        (
            FILE,
            [__file__, Path(__file__)],
            ["", "/nowhere", str(Path(__file__).parent), "a\0b", "a" * 5000, 0, None, b"x"],
        ),
        (TEXT.or_none, [None, "a"], ["", 1]),
    ],
    ids=lambda value: value.wanted if isinstance(value, Option) else None,
)
def test_each_kind_of_option_knows_its_values(option: Option, valid: list[object], invalid: list[object]) -> None:
    for value in valid:
        check_option("option", value, option)
    for value in invalid:
        with pytest.raises(InvalidOption, match="option has an invalid value"):
            check_option("option", value, option)


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        (SECONDS, "It must be a number of seconds above 0 up to 1,000,000,000"),
        (seconds(zero=True, most=60), "It must be a number of seconds from 0 up to 60"),
        (count("messages", most=7), "It must be a whole number of messages from 1 to 7"),
        (choice(0, "a"), "It must be one of 0, 'a'"),
        (FILE.or_none, "It must be the path of a readable file, or None"),
    ],
)
def test_an_error_names_the_option_the_type_and_the_cure_but_not_the_value(option: Option, cure: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        check_option("probe_interval", "s3cret", option)
    assert str(caught.value) == f"probe_interval has an invalid value (str). {cure}"
    assert (caught.value.problem, caught.value.cure) == ("probe_interval has an invalid value (str)", cure)


def test_an_error_is_a_value_error_of_this_package() -> None:
    assert issubclass(InvalidOption, ValueError)
    assert issubclass(InvalidOption, ChannelLayerError)


def test_given_options_are_checked_and_others_are_left_alone() -> None:
    options = {"a": SECONDS, "b": FLAG}
    check_options({}, options)
    check_options({"a": 1, "z": object()}, options)
    with pytest.raises(InvalidOption, match="^b has"):
        check_options({"a": 1, "b": 2}, options)


def test_an_unknown_option_is_refused_with_its_hint() -> None:
    for given, hint in (
        ({"b": 1}, "Its options are aaaa, bbbb"),
        ({"aaab": 1}, "Did you mean 'aaaa'?"),
        ({"c": 1}, "C"),
    ):
        with pytest.raises(TypeError) as caught:
            refuse_unknown_options("SomeLayer", given, {"bbbb", "aaaa"}, {"c": "C"})
        [name] = given
        assert str(caught.value) == f"SomeLayer has no option {name!r}. {hint}"
    refuse_unknown_options("SomeLayer", ["aaaa"], ["aaaa"])


def test_the_options_of_a_class_are_its_keyword_arguments_and_those_of_its_bases() -> None:
    class Base:
        def __init__(self, one: int = 1, *rest: int, **options: int) -> None: ...

    class Derived(Base):
        def __init__(self, two: int = 2, **options: int) -> None: ...

    class Last(Derived): ...

    assert option_names(Last) == {"one", "two"}


@pytest.mark.parametrize("value", [0, "0", "65536", "", "x", "1.5", "-1", 5000 * "1", True, None])
def test_digits_may_be_a_number_but_a_wrong_one_may_not(value: object) -> None:
    for valid in (1, "6379", 65_535):
        check_option("port", valid, PORT)
    with pytest.raises(InvalidOption, match="It must be a port from 1 to 65535"):
        check_option("port", value, PORT)
