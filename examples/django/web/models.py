"""What the database keeps."""

from django.db import models


class Greeting(models.Model):
    """What a visitor reads."""

    text = models.CharField(max_length=200)
