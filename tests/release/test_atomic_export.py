"""An export folder gets all files of an export or none, and no other file is lost."""

from pathlib import Path

import pytest

from vqgan_train.release.atomic_export import atomic_export
from vqgan_train.system.errors import ExportError


def write(folder: Path, **files: str) -> None:
    with atomic_export(folder) as partial:
        for name, content in files.items():
            (partial / name).write_text(content)


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_files_arrive_in_a_folder_that_is_made(tmp_path: Path) -> None:
    write(tmp_path / "new" / "folder", weights="1", config="2")
    assert contents(tmp_path / "new" / "folder") == {"weights": "1", "config": "2"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]


def test_what_else_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    write(tmp_path, weights="1")
    assert contents(tmp_path) == {"notes": "mine", "weights": "1"}


def test_the_same_export_again_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, weights="1", config="2")
    times = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    write(tmp_path, weights="1", config="2")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == times


def test_what_an_interrupted_move_left_out_is_added(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("2")
    write(tmp_path, weights="1", config="2")
    assert contents(tmp_path) == {"weights": "1", "config": "2"}


def test_another_export_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    write(folder, weights="1", config="2")
    with pytest.raises(
        ExportError, match=r"holds different files named config, weights. Nothing was written"
    ):
        write(folder, weights="3", config="4", more="5")
    assert contents(folder) == {"weights": "1", "config": "2"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    with pytest.raises(ExportError, match="holds different files named weights"):
        write(tmp_path, weights="1")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"is a file. Give a folder"):
        write(tmp_path / "file", weights="1")


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_what_fails_midway_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with atomic_export(tmp_path / "export") as partial:
            (partial / "weights").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert not list(tmp_path.iterdir())


def test_folders_inside_of_it_arrive_too_and_are_not_overwritten(tmp_path: Path) -> None:
    def write_inside(content: str, **more: str) -> None:
        with atomic_export(tmp_path / "export") as partial:
            (partial / "inner").mkdir()
            for name, text in {"weights": content, **more}.items():
                (partial / "inner" / name).write_text(text)

    write_inside("1")
    write_inside("1", config="2")
    assert contents(tmp_path / "export" / "inner") == {"weights": "1", "config": "2"}
    with pytest.raises(
        ExportError, match=r"holds different files named inner/weights\. Nothing was written"
    ):
        write_inside("3", more="4")
    assert contents(tmp_path / "export" / "inner") == {"weights": "1", "config": "2"}


def test_the_folder_that_one_is_in_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    write(Path(), weights="1")
    assert contents(here) == {"weights": "1"}
