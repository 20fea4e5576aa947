"""A process of a Django project whose users log in and out: it reads commands, and prints what came of each as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import django
from django.conf import settings

LAYER = {
    "BACKEND": "django_anyio_channels.AnyioChannelLayer",
    "CONFIG": {"url": os.environ["CHANNEL_LAYER_URL"], "prefix": "auth", "publish_timeout": 1.0},
}
CLOSING = {**LAYER["CONFIG"], "close_on": ["logout", "password_changed", "deactivated"]}  # type: ignore[dict-item]

settings.configure(
    SECRET_KEY="for tests",
    ALLOWED_HOSTS=["testserver"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"]}},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django_anyio_channels",
    ],
    CHANNEL_LAYERS={"quiet": LAYER, "default": {**LAYER, "CONFIG": CLOSING}},
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
)
django.setup()

from django.contrib import auth  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from django.http import HttpRequest  # noqa: E402
from django.test import Client  # noqa: E402

call_command("migrate", verbosity=0)

clients: dict[str, Client] = {}


def user(name: str) -> Any:
    return User.objects.get(username=name)


def create(name: str) -> None:
    User.objects.create_user(name, password="secret")


def login(name: str) -> dict[str, Any]:
    client = clients[name] = Client()
    assert client.login(username=name, password="secret")
    found = user(name)
    return {"pk": found.pk, "session": client.session.session_key, "hash": found.get_session_auth_hash()}


def logout(name: str) -> None:
    clients[name].logout()


def log_nobody_out(name: str) -> None:
    request = HttpRequest()
    request.session = SessionStore()
    auth.logout(request)


def alogout(name: str) -> None:
    asyncio.run(clients[name].alogout())


def save(name: str) -> None:
    user(name).save()
    user(name).save(update_fields=["last_login"])


def change_password(name: str) -> None:
    found = user(name)
    found.set_password("another")
    found.save()


def change_password_in_vain(name: str) -> None:
    try:
        with transaction.atomic():
            change_password(name)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


def deactivate(name: str) -> None:
    found = user(name)
    found.is_active = False
    found.save(update_fields=["is_active"])


def delete(name: str) -> None:
    user(name).delete()


for line in sys.stdin:
    command, name = line.split()
    print(json.dumps(globals()[command](name)), flush=True)
