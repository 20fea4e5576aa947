"""The Django project that the tests of client.js and of server-sent events serve."""
