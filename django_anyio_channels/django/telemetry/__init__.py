"""Metrics and traces for Prometheus and OpenTelemetry. Nothing of it is imported unless CONFIG asks for it."""
