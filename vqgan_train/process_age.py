"""How old this process is."""

import os
import time
from pathlib import Path

_IMPORTED_AT = time.monotonic()
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def process_seconds() -> float:
    """Seconds since this process was started; where Linux does not tell, since the first import."""
    try:
        # Field 22 is the start, in clock ticks since the boot; the second may hold spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.monotonic() - _IMPORTED_AT
    return uptime - int(fields[19]) / _CLOCK_TICKS
