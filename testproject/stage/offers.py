"""What the page offers, and why it doesn't offer the rest."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest


def offers(request: HttpRequest) -> dict[str, Any]:
    """Return, for the template of the panel, why each button is off; empty if it is on."""
    closed = "" if settings.STAGE_CONTROL else "Off: only the owner of this machine may kill its processes."
    one = "Off: in memory there is one process. Start the stage with a broker." if settings.IN_MEMORY else ""
    foreign = "" if settings.STAGE_OWNS_BROKER else "Off: the broker isn't the stage's own."
    acknowledged = "" if settings.ACKNOWLEDGES else "Off: this broker has no acknowledged jobs."
    return {
        "why_not_broker": closed or one or foreign,
        "why_not_server": closed or one,
        "why_not_worker": closed or one or acknowledged,
        "why_not_devices": "" if settings.STAGE_MQTT else "Off: mosquitto is not installed on this machine.",
        "in_memory": settings.IN_MEMORY,
        "in_transaction": settings.ON_POSTGRESQL,
    }
