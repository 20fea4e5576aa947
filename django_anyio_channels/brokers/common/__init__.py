"""Asyncio tools that every driver shares."""
