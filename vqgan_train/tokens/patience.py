"""Reading from disks that sometimes do not answer."""

import errno
import time

from vqgan_train.tokens.errors import TokenError
from vqgan_train.tokens.places import Encoded, Place, ShardPlace

PAUSES_SECONDS = (1.0, 4.0)
"""Before a place is read again; a network's disk that is gone for longer is an error."""

NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""The system's answer is that there is no such file, not that it cannot tell."""


class NoImageError(ValueError):
    """There is no image where one should be."""


def read_patiently(place: Place) -> Encoded:
    """Read a place, again after a while if the system could not.

    Raises:
        NoImageError: there is no such image.
        TokenError: the system cannot read it; that says nothing about the image.
        ShardError: the shard has changed, or cannot be had.
    """
    for pause in (*PAUSES_SECONDS, None):
        try:
            return place.read()
        except OSError as error:
            if error.errno in NO_FILE and not isinstance(place, ShardPlace):
                raise NoImageError(error.strerror) from error
            if pause is None:
                raise TokenError(
                    f"{error.filename or place.file} cannot be read: {error.strerror} (asked "
                    f"{len(PAUSES_SECONDS) + 1} times). That is the disk's or the permissions' "
                    "fault, not the image's, so nothing was left out for it. Mend it; the same "
                    "command then goes on."
                ) from error
            time.sleep(pause)
    raise AssertionError
