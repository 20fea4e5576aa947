"""The site with the settings of a project that used channels_redis."""
