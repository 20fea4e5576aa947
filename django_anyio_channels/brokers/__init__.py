"""The drivers, one folder for each broker; `common` holds the asyncio tools that they share."""
