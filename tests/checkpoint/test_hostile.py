"""Hostile files: each runs code if it is trusted, and runs none in our reader."""

import copyreg
import io
import pickle
import sys
import tarfile
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from checkpoint.hostile_programs import (
    EXTENSION,
    PROGRAMS,
    SHELL,
    SING,
    Bird,
    Flock,
    Nest,
    Perch,
    made,
    ran,
    sing,
)
from checkpoint.pickles import (
    MAGIC_NUMBER,
    PROTOCOL_1001,
    SYSTEM,
    VALUES,
    WEIGHT,
    call,
    checkpoint,
    dict_of,
    integer,
    name,
    storage,
    text,
    tuple_of,
    write_legacy,
    write_zip,
)

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.checkpoint.unpickling import StandIn
from vqgan_train.system.errors import CheckpointError


@pytest.fixture(autouse=True)
def canaries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the classes importable under a name that a pickle can use."""
    module = types.ModuleType("canaries")
    for member in (sing, Bird, Nest, Perch, Flock):
        setattr(module, member.__name__, member)
    monkeypatch.setitem(sys.modules, "canaries", module)
    copyreg.add_extension("canaries", "sing", EXTENSION)
    ran.clear()
    yield
    copyreg.remove_extension("canaries", "sing", EXTENSION)


def trusted(path: Path) -> None:
    """Read a file with full trust, which runs its code."""
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("place", ["beside the weights", "as a weight"])
def test_nothing_that_a_pickle_names_is_run(
    tmp_path: Path, program: bytes, write: Callable[..., Path], place: str
) -> None:
    content = (
        checkpoint(other=program)
        if place == "beside the weights"
        else dict_of({"state_dict": dict_of({"a": WEIGHT, "b": program})})
    )
    path = write(tmp_path / "hostile.ckpt", content)
    with suppress(CheckpointError):
        read = read_checkpoint(path)
        assert torch.equal(read["state_dict"].get("weight", VALUES), VALUES)
    assert not ran
    trusted(path)
    assert ran, "the file was harmless, so reading it proved nothing"


@pytest.mark.parametrize("program", SHELL.values(), ids=SHELL.keys())
def test_a_file_that_asks_for_a_shell_is_refused_as_such(
    tmp_path: Path, program: Callable[[bytes], bytes]
) -> None:
    trace = tmp_path / "trace"
    path = write_zip(
        tmp_path / "hostile.ckpt", checkpoint(callbacks=program(text(f"touch {trace}")))
    )
    with pytest.raises(CheckpointError, match=r"it asks to run .*; nothing was run"):
        read_checkpoint(path)
    assert not trace.exists()
    trusted(path)
    assert trace.exists(), "the file was harmless, so refusing it proved nothing"


@pytest.mark.parametrize("position", range(5))
def test_every_pickle_of_an_old_file_is_read_as_data(tmp_path: Path, position: int) -> None:
    hostile = b"\x80\x02" + call(SING) + b"0%b"
    pickles = [MAGIC_NUMBER, PROTOCOL_1001, SYSTEM, checkpoint(), b"\x80\x02](" + text("0") + b"e."]
    # Run, forget, and go on as if nothing had been.
    pickles[position] = hostile % pickles[position].removeprefix(b"\x80\x02")
    head, program, keys = pickles[:3], pickles[3].removeprefix(b"\x80\x02"), pickles[4]
    path = tmp_path / "hostile.ckpt"
    if position == 0:  # no longer known as a file of torch
        path.write_bytes(pickles[0])
        with pytest.raises(CheckpointError, match="a pickle, but not one that torch writes"):
            read_checkpoint(path)
        pickle.loads(pickles[0])
    else:
        write_legacy(path, program, head=head, keys=keys)
        assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], VALUES)
        assert not ran
        trusted(path)
    assert ran == ["call"], "the file was harmless, or ran more than once"


def test_a_module_that_a_file_names_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_by_a_checkpoint.py").write_text("import canaries; canaries.sing()")
    monkeypatch.syspath_prepend(tmp_path)
    path = write_zip(
        tmp_path / "hostile.ckpt", checkpoint(other=name("imported_by_a_checkpoint", "any"))
    )
    read_checkpoint(path)
    assert not ran
    assert "imported_by_a_checkpoint" not in sys.modules
    trusted(path)
    assert ran


def test_an_object_of_a_foreign_class_is_a_stand_in(tmp_path: Path) -> None:
    program = made("Nest") + b"(K\x01K\x02e" + dict_of({"secret": text("state")}) + b"b"
    found = read_checkpoint(write_zip(tmp_path / "a.ckpt", checkpoint(other=program)))["other"]
    assert isinstance(found, StandIn)
    assert (found.name, found.state) == ("canaries.Nest", {"secret": "state"})
    assert repr(found) == "<stand-in for 'canaries.Nest'>"


REBUILD = name("torch._utils", "_rebuild_tensor")


@pytest.mark.parametrize("target", [WEIGHT, REBUILD, storage("0", integer(4))])
def test_a_file_sets_no_attribute_of_torch(tmp_path: Path, target: bytes) -> None:
    state = b"N" + dict_of({"__defaults__": b")"}) + b"\x86b"
    with pytest.raises(CheckpointError, match="sets the state of a"):
        read_checkpoint(write_zip(tmp_path / "a.ckpt", checkpoint(other=target + state)))


@pytest.mark.parametrize("program", [name("collections", "OrderedDict"), REBUILD])
def test_torch_compares_no_source_code_that_an_old_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes
) -> None:
    # torch would write the difference to a file beside.
    monkeypatch.chdir(tmp_path)
    module = tuple_of(text("module"), program, text("a.py"), text("source text")) + b"Q"
    with pytest.raises(CheckpointError, match=r"a\.ckpt .* whose key is no number"):
        read_checkpoint(write_legacy(tmp_path / "a.ckpt", checkpoint(other=module)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_tar_archive_that_begins_like_an_old_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo(MAGIC_NUMBER.decode("latin-1")))
    assert path.read_bytes().startswith(MAGIC_NUMBER)
    with pytest.raises(CheckpointError, match="it is a tar archive"):
        read_checkpoint(path)


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    program = dict_of({"state_dict": dict_of({"\x1b[2J\r": b"N"})})
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(write_zip(tmp_path / "a.ckpt", program))
    assert str(caught.value).isprintable()


def test_the_pickles_written_here_are_read_by_torch_too(tmp_path: Path) -> None:
    for write in (write_zip, write_legacy):
        path = write(tmp_path / "a.ckpt", checkpoint())
        assert torch.equal(torch.load(path)["state_dict"]["weight"], VALUES)
        assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], VALUES)
    assert io.BytesIO(path.read_bytes()).getvalue().startswith(MAGIC_NUMBER)
