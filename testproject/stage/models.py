"""What a transaction writes beside the message that it sends."""

from django.db import models


class Post(models.Model):
    """A line that was posted in a transaction."""

    text: "models.CharField[str, str]" = models.CharField(max_length=200)
