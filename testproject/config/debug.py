"""What Django's debug pages, and its mails to ADMINS, show of the settings."""

import re

from django.views.debug import SafeExceptionReporterFilter


class HideChannelLayers(SafeExceptionReporterFilter):
    """Django hides passwords by the names of settings, but a broker's password stands in its URL."""

    hidden_settings = re.compile(SafeExceptionReporterFilter.hidden_settings.pattern + "|CHANNEL_LAYER", re.IGNORECASE)
