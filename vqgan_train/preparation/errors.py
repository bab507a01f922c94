"""How preparing data is refused."""


class PreparationError(ValueError):
    """What was given cannot be prepared; the message says what was found and what to change."""
