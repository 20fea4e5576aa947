"""The same application as before."""

from tests.asgi.site.asgi import application

__all__ = ["application"]
