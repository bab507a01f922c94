"""Run the steps of docker/Dockerfile in a clean Debian, without Docker.

    sudo python scripts/check_image.py ROOT

Carries out ENV, WORKDIR, COPY, RUN, USER and CMD of the Dockerfile with debootstrap, mount and
chroot, so it must run as root. This shows that the steps need nothing beyond what they install, and
that the command runs as the image's user. It does not test the base image (it installs Debian's
Python 3.11 of the same release instead) or Docker itself.
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
RELEASE, PACKAGES = "bookworm", "ca-certificates,python3,python3-dev,python3-venv"
"""What python:slim has: an interpreter with its headers, pip, and certificates."""
MOUNTED = ("proc", "dev")


class Instruction(NamedTuple):
    """Instruction of a Dockerfile, with its continuation lines joined."""

    word: str
    """Name in upper case: RUN, COPY, ..."""

    rest: str


def read_instructions(text: str) -> list[Instruction]:
    """Parse a Dockerfile into its instructions, without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    words = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [Instruction(word.upper(), " ".join(rest.split())) for word, _, rest in words]


def copy(sources: Sequence[str], target: Path, folder: str) -> None:
    """Copy as COPY does: the contents of folders, and files, into a folder below `target`."""
    for source in (HOME / name for name in sources):
        into = target / folder
        if source.is_dir():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, into, dirs_exist_ok=True, ignore=unwanted)
        else:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into)


class Image:
    """Root file system in which the instructions of a Dockerfile are carried out.

    Args:
        root: folder that contains a Debian system.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin"}
        self.folder = "/"
        self.user = "root"
        self.command: list[str] = []

    def take(self, instruction: Instruction) -> None:
        """Carry out one instruction."""
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
            raise ValueError(
                f"{word} {rest}: check_image.py does not support {word}; add it there."
            )

    def run(self, command: Sequence[str]) -> None:
        """Run a command in the file system as the current user."""
        home = "/root" if self.user == "root" else f"/home/{self.user}"
        inside = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        subprocess.run(
            ["chroot", f"--userspec={self.user}:{self.user}", self.root, "sh", "-c", inside],
            env={**self.environment, "HOME": home},
            check=True,
        )

    def inside(self, path: str) -> Path:
        """Return the path on this machine of a path in the image."""
        return self.root / path.lstrip("/")


@contextmanager
def mounts(root: Path) -> Iterator[None]:
    """Mount /proc and /dev as a container has them, and unmount them at the end."""
    for name in MOUNTED:
        subprocess.run(["mount", "--rbind", f"/{name}", root / name], check=True)
        subprocess.run(["mount", "--make-rslave", root / name], check=True)
    try:
        yield
    finally:
        for name in reversed(MOUNTED):
            subprocess.run(["umount", "--recursive", root / name], check=True)


def make_root(root: Path, mirror: str, keep: Sequence[Path]) -> None:
    """Install a small Debian, and copy a few files of this machine into it."""
    settings = ["--variant=minbase", f"--include={PACKAGES}"]
    subprocess.run(["debootstrap", *settings, RELEASE, root, mirror], check=True)
    for path in (*keep, Path("/etc/resolv.conf")):
        into = root / str(path.resolve()).lstrip("/")
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, into)


def main() -> None:
    """Install Debian if `root` is empty, carry out all instructions and run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "root", type=Path, help="folder for the file system (10 GB); it is not removed"
    )
    parser.add_argument(
        "--mirror",
        default="http://deb.debian.org/debian",
        help="mirror of Debian packages (default: %(default)s)",
    )
    parser.add_argument(
        "--keep", type=Path, nargs="*", default=[], help="files of this machine to copy into it"
    )
    parser.add_argument(
        "--env", nargs="*", default=[], help="names of environment variables to pass on"
    )
    parser.add_argument("--overrides", nargs="*", default=[], help="settings for the command")
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
