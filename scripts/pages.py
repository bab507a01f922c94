"""Shared by the benchmark scripts: facts about the machine, and tables in Markdown pages."""

import datetime
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """Return date, hardware, load and versions, for the record of a measurement."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table; all columns but the first are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def put(page: Path, name: str, text: str) -> None:
    """Replace the part of a page between its markers of a name."""
    before, _, after = split(page, name)
    page.write_text(f"{before}\n{text}\n{after}")


def held(page: Path, name: str) -> str:
    """Return the part of a page between its markers of a name."""
    return split(page, name)[1].strip()


def split(page: Path, name: str) -> tuple[str, str, str]:
    """Split a page at its markers, which belong to the outer parts."""
    begin, end = f"<!-- {name}: made by a script -->", f"<!-- end of {name} -->"
    before, found_begin, rest = page.read_text().partition(begin)
    middle, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{page} has no lines {begin} and {end}")
    return before + begin, middle, end + after


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
