"""What is raised for files that cannot be used, or cannot be written."""


class CheckpointError(ValueError):
    """A file cannot be used as a checkpoint; the message says why and what to do."""


class ExportError(ValueError):
    """Weights cannot be written as asked; the message says why and what to do."""


def shown(name: object) -> str:
    """A name out of a file, safe to print: short, and without control characters."""
    text = str(name)
    return text.encode("unicode_escape").decode() if len(text) <= 80 else shown(text[:77] + "...")
