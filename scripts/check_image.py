"""Take the steps of docker/Dockerfile in a clean Debian: python scripts/check_image.py ROOT.

Without Docker, but as root, since it needs debootstrap, mount and chroot. ENV, WORKDIR, COPY, RUN,
USER and CMD are carried out as the Dockerfile has them; in place of the base image is Debian's own
Python 3.11 on the same release. So this shows that the steps need nothing but what they name, and
that the command runs as the image's user. It shows neither the base image nor Docker's own work.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HOME = Path(__file__).parents[1]
DOCKERFILE = HOME / "docker" / "Dockerfile"
RELEASE, PACKAGES = "bookworm", "ca-certificates,python3,python3-venv"
MOUNTED = ("proc", "dev")


class Instruction(NamedTuple):
    """A line of a Dockerfile, with those that continue it."""

    word: str
    """In capitals: RUN, COPY, ..."""

    rest: str


def read_instructions(text: str) -> list[Instruction]:
    """All instructions of a Dockerfile, in order, without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    words = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [Instruction(word.upper(), " ".join(rest.split())) for word, _, rest in words]


def copy(sources: Sequence[str], target: Path, folder: str) -> None:
    """COPY: a folder's content, files by their names; a folder is the target itself."""
    for source in (HOME / name for name in sources):
        into = target / folder
        if source.is_dir():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, into, dirs_exist_ok=True, ignore=unwanted)
        else:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into)


class Image:
    """What a Dockerfile makes of a root file system.

    Args:
        root: a folder with a Debian in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin"}
        self.folder = "/"
        self.user = "root"
        self.command: list[str] = []

    def take(self, instruction: Instruction) -> None:
        """Carry out an instruction."""
        word, rest = instruction
        print(f"== {word} {rest}", flush=True)
        if word == "ENV":
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                path = value.replace("$PATH", self.environment["PATH"])
                self.environment[name] = path
        elif word == "WORKDIR":
            self.folder = rest
            self.inside(rest).mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            *sources, folder = rest.split()
            copy(sources, self.inside(self.folder), folder)
        elif word == "USER":
            self.user = rest
        elif word == "CMD":
            self.command = [str(part) for part in re.findall(r'"([^"]*)"', rest)]
        elif word == "RUN":
            self.run(["sh", "-c", rest])
        elif word != "FROM":
            raise ValueError(f"{word} {rest}: this script does not know {word}. Teach it.")

    def run(self, command: Sequence[str]) -> None:
        """Run a command inside, as the user of the moment."""
        home = "/root" if self.user == "root" else f"/home/{self.user}"
        inside = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        subprocess.run(
            ["chroot", f"--userspec={self.user}:{self.user}", self.root, "sh", "-c", inside],
            env={**self.environment, "HOME": home},
            check=True,
        )

    def inside(self, path: str) -> Path:
        """Where a path of the image is for us."""
        return self.root / path.lstrip("/")


@contextmanager
def mounts(root: Path) -> Iterator[None]:
    """The kernel's file systems, as a container has them."""
    for name in MOUNTED:
        subprocess.run(["mount", "--rbind", f"/{name}", root / name], check=True)
        subprocess.run(["mount", "--make-rslave", root / name], check=True)
    try:
        yield
    finally:
        for name in reversed(MOUNTED):
            subprocess.run(["umount", "--recursive", root / name], check=True)


def make_root(root: Path, mirror: str, keep: Sequence[Path]) -> None:
    """Install a small Debian, with a few files of this machine in it."""
    settings = ["--variant=minbase", f"--include={PACKAGES}"]
    subprocess.run(["debootstrap", *settings, RELEASE, root, mirror], check=True)
    for path in (*keep, Path("/etc/resolv.conf")):
        into = root / str(path.resolve()).lstrip("/")
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, into)


def main() -> None:
    """Make the root if need be, take all steps, run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder for the file system, 10 GB; not removed")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="of Debian")
    parser.add_argument("--keep", type=Path, nargs="*", default=[], help="files to take along")
    parser.add_argument("--env", nargs="*", default=[], help="variables to take along, by name")
    parser.add_argument("--overrides", nargs="*", default=[], help="for the command")
    arguments = parser.parse_args()
    if not (arguments.root / "usr").exists():
        make_root(arguments.root, arguments.mirror, arguments.keep)
    image = Image(arguments.root)
    image.environment |= {name: os.environ[name] for name in arguments.env}
    with mounts(arguments.root):
        for instruction in read_instructions(DOCKERFILE.read_text()):
            image.take(instruction)
        image.run([*image.command, *arguments.overrides])


if __name__ == "__main__":
    main()
