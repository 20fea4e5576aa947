"""A check for django-health-check: the channel layer returns a message through its broker."""

from __future__ import annotations

from ...core.exceptions import ChannelLayerError, MissingDriver

try:
    from health_check.base import HealthCheck
    from health_check.exceptions import ServiceUnavailable
except ModuleNotFoundError as error:
    raise MissingDriver(
        "ChannelLayerHealthCheck needs django-health-check: pip install django-anyio-channels[django,health]"
    ) from error

import dataclasses
import datetime

from django.core.exceptions import ImproperlyConfigured

from ..registry import get_channel_layer


@dataclasses.dataclass
class ChannelLayerHealthCheck(HealthCheck):  # type: ignore[misc] # it has no types
    """Fails unless the layer of ``alias`` returns a message through its broker within ``timeout``.

    Name it in the ``checks`` of django-health-check's ``HealthCheckView``. What it reports shows no address; the log
    has the reason.
    """

    alias: str = "default"
    timeout: datetime.timedelta = dataclasses.field(default=datetime.timedelta(seconds=5), repr=False)

    async def run(self) -> None:
        """Raise ``ServiceUnavailable`` if there is no round trip."""
        try:
            await get_channel_layer(self.alias).ping(timeout=self.timeout.total_seconds())
        except (ChannelLayerError, ImproperlyConfigured) as error:
            raise ServiceUnavailable(f"No round trip through the channel layer {self.alias!r}") from error
