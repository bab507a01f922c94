"""Errors that are shown to the user without a traceback."""


class UserError(ValueError):
    """Error that the user can fix; the message says what was found and what to change."""


class LaunchError(UserError):
    """What was started and what the settings ask for contradict each other."""


class LostRankError(UserError):
    """Another rank of the run has ended."""


class ConfigError(UserError):
    """A setting is impossible; the message names it, what it is and what to change."""


class ShardError(UserError):
    """Shards are missing, empty or damaged; the message names them and what to do."""


class DeadShardError(ShardError):
    """A remote shard, or a sample in it, cannot be had; a run goes on without."""


class DeviceError(UserError):
    """The device that was asked for is not here."""


def first_line(error: Exception) -> str:
    """The first line of what an error of a library says."""
    return next(filter(None, map(str.strip, str(error).splitlines())), repr(error))


class CheckpointError(UserError):
    """A file cannot be used as a checkpoint; the message says why and what to do."""


class ExportError(UserError):
    """Weights cannot be written as asked; the message says why and what to do."""


class PreparationError(UserError):
    """What was given cannot be prepared; the message says what was found and what to change."""


class TokenError(UserError):
    """Tokens cannot be made or used as asked; the message says why and what to do."""
