"""A pytest plugin: Django does not find psycopg 3, and takes psycopg2. Our own helpers have it."""

from __future__ import annotations

import sys
from importlib import import_module

sys.modules["psycopg"] = None  # type: ignore[assignment]
import_module("django.db.backends.postgresql.base")
del sys.modules["psycopg"]
