"""What the project stores."""

from __future__ import annotations

from datetime import datetime

from django.db import models


class Note(models.Model):
    """A line of a chat."""

    text: models.TextField[str, str] = models.TextField()
    written: models.DateTimeField[datetime, datetime] = models.DateTimeField(auto_now_add=True)
