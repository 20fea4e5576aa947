"""Redis and Valkey: one server, Sentinel and Cluster; publish/subscribe, queues, and streams."""
