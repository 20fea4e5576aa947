"""What packets are made of: properties and the names of reason codes."""

from __future__ import annotations

from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode

from django_anyio_channels.brokers.mqtt.packets import NO_PROPERTIES, Properties, reason_name


@pytest.mark.parametrize("code", range(0x80, 0xA3))
def test_reason_codes_have_the_names_of_the_specification(code: int) -> None:
    """paho-mqtt has them, too, some in the singular."""
    names: Any = ReasonCode(PacketTypes.CONNACK).names
    (name,) = names[code]
    assert reason_name(code).lower().replace("s ", " ") == f"{name} (0x{code:02x})".lower().replace("s ", " ")


def test_a_reason_code_that_nobody_defined() -> None:
    assert reason_name(0xFF) == "reason (0xff)"


def test_properties_are_what_paho_reads() -> None:
    properties = Properties(
        payload_format_indicator=1,
        message_expiry_interval=60,
        content_type="text/plain",
        response_topic="\ufeffanswers",
        correlation_data=b"\xff\0",
        user_properties=[("key", "value"), ("key", "")],
    )
    read: Any = PahoProperties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    packed = properties.pack().replace(b"\x0a\xef\xbb\xbf", b"\x07")  # it refuses U+FEFF
    read.unpack(bytes([packed[0] - 3]) + packed[1:])
    assert (read.PayloadFormatIndicator, read.MessageExpiryInterval, read.ContentType) == (1, 60, "text/plain")
    assert (read.ResponseTopic, read.CorrelationData) == ("answers", b"\xff\0")
    assert read.UserProperty == [("key", "value"), ("key", "")]


def test_no_properties() -> None:
    assert Properties().pack() == NO_PROPERTIES


def test_a_property_too_long_for_the_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 65535 bytes in UTF-8, not 65536"):
        Properties(content_type="x" * 65_536).pack()
