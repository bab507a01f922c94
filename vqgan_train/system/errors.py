"""Errors that are shown to the user without a traceback."""


class UserError(ValueError):
    """Error that the user can fix; the message says what was found and what to change."""


class LostRankError(UserError):
    """Another process of the same run or command has exited."""


class RunFolderError(UserError):
    """The output folder cannot be used; the message says why and what to do."""


class ShardError(UserError):
    """Shards cannot be used, for example if one is missing; the message says what to do."""


class DeadShardError(ShardError):
    """A remote shard, or a sample in it, is unavailable; a run skips it and trains on."""


class UnavailableShardError(DeadShardError):
    """A remote shard's source failed in a way that may pass; the same command may work later."""


class CheckpointError(UserError):
    """A file cannot be used as a checkpoint; the message says why and what to do."""


class ExportError(UserError):
    """Weights cannot be exported as configured; the message says why and what to do."""


def as_typed(value: object) -> str:
    """Return a setting's value as the user types it: null, true, false, or its text."""
    words = {"None": "null", "True": "true", "False": "false"}
    return value if isinstance(value, str) else words.get(str(value), str(value))


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message; its repr if there is no message."""
    return next(filter(None, map(str.strip, str(error).splitlines())), repr(error))
