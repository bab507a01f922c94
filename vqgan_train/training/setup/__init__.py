"""Build data, networks and trainer from the config; only this package knows both."""
