"""The same application as before."""

from tests.servers.site.asgi import application

__all__ = ["application"]
