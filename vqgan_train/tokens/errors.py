"""What is raised for tokens that cannot be made, or not be read."""


class TokenError(ValueError):
    """Tokens cannot be made or used as asked; the message says why and what to do."""
