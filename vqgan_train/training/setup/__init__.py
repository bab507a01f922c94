"""Build data, networks and trainer from the settings. No other package knows both."""
