"""Errors describe files that are no checkpoints."""

import gzip
import io
import pickle
import zipfile
from pathlib import Path

import pytest

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.system.errors import CheckpointError


def zipped(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return buffer.getvalue()


OTHER_FILES = {
    "HTML page": b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>",
    "HTML page ": b"\xef\xbb\xbf\n <html>\n<body>Sign in</body></html>",
    "XML page": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:01\nsize 3\n",
    "JSON text": b'{"error": "Repository not found"}',
    "empty": b"",
    "starts with zeros": b"\0" * 5000,
    "compressed archive": gzip.compress(b"weights", mtime=0),
    "tar archive": b"\0".join([b"file", b" " * 252]) + b"ustar  \0" + b"0" * 300,
    "a pickle, but not one that torch writes": pickle.dumps({"state_dict": {}}, protocol=2),
    "zip archive, but not of torch": zipped({"notes.txt": "no weights"}),
    "TorchScript": zipped({"a/data.pkl": "", "a/constants.pkl": "", "a/version": "3\n"}),
    "an image, not a checkpoint": b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR",
    "an image": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "no checkpoint format": b"Not Found",
}


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_of_another_kind_is_described(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(OTHER_FILES[kind])
    with pytest.raises(CheckpointError, match=rf"{path.name}.*{kind.strip()}"):
        read_checkpoint(path)


def test_a_folder_is_described(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is a folder, not a file"):
        read_checkpoint(tmp_path)
