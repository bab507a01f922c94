"""Build data, networks and trainer from the settings, which their packages do not know."""
