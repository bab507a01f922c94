"""How a release is refused."""


class ReleaseError(ValueError):
    """Nothing can be released like this; the message says why and what to do."""
