"""What a layer may offer besides its verbs, and how the rest is refused."""

from __future__ import annotations

import pytest

from django_anyio_channels import InMemoryChannelLayer, NotSupported
from django_anyio_channels.core.capabilities import (
    SupportsAcknowledgement,
    SupportsBlockingPublish,
    SupportsTransactions,
    require_acknowledgement,
)
from tests.support.acknowledging import AcknowledgingLayer
from tests.support.scripted import ScriptedLayer


def test_capabilities_are_those_of_the_class() -> None:
    memory, scripted, acknowledging = InMemoryChannelLayer(), ScriptedLayer(), AcknowledgingLayer()
    assert isinstance(memory, SupportsBlockingPublish)
    assert isinstance(memory, SupportsAcknowledgement)
    assert not isinstance(memory, SupportsTransactions)
    assert not isinstance(scripted, (SupportsAcknowledgement, SupportsBlockingPublish, SupportsTransactions))
    assert isinstance(acknowledging, SupportsAcknowledgement)


def test_a_layer_without_acknowledgement_is_refused_with_an_alternative() -> None:
    layer = AcknowledgingLayer()
    assert require_acknowledgement(layer) is layer
    with pytest.raises(
        NotSupported, match=r"ScriptedLayer does not support acknowledgement.*redis\+streams://.*memory://"
    ):
        require_acknowledgement(ScriptedLayer())
