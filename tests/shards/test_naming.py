from pathlib import Path

import pytest

from vqgan_train.shards.naming import expand_shards, expand_sources
from vqgan_train.system.errors import ShardError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five empty shards, created in another order than that of their names."""
    for number in (3, 0, 10, 1, 2):
        (tmp_path / f"{number:03d}.tar").touch()
    return tmp_path


def names(shards: list[Path]) -> list[str]:
    return [shard.stem for shard in shards]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["002.tar", "000.tar"], ["002", "000"]),
        (["*.tar"], ["000", "001", "002", "003", "010"]),
        (["00[12].tar"], ["001", "002"]),
        (["00?.tar"], ["000", "001", "002", "003"]),
        (["{000..002}.tar"], ["000", "001", "002"]),
        (["{002..000}.tar"], ["002", "001", "000"]),
        (["{003,001}.tar"], ["003", "001"]),
        (["{01,00[12]}*.tar"], ["010", "001", "002"]),
        (["010.tar", "00[01].tar", "{002..003}.tar"], ["010", "000", "001", "002", "003"]),
    ],
)
def test_patterns_name_shards_in_the_order_given(
    folder: Path, patterns: list[str], expected: list[str]
) -> None:
    shards = expand_shards([str(folder / pattern) for pattern in patterns])
    assert names(shards) == expected
    assert {shard.parent for shard in shards} == {folder}


@pytest.mark.parametrize("name", ["x [1]", "set[a-c]", "what?"])
def test_a_folder_of_a_name_like_a_pattern_can_be_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    for number in range(3):
        Path(name, f"{number}.tar").touch()
    Path(f"{name}.tar").touch()
    Path("x 1").mkdir()  # what the pattern `x [1]` would match
    Path("x 1", "0.tar").touch()
    for start in ("", f"{tmp_path}/"):
        assert expand_shards([f"{start}{name}/[01].tar"]) == [
            Path(f"{start}{name}/{number}.tar") for number in (0, 1)
        ]
        assert expand_shards([f"{start}{name}/2.tar"]) == [Path(f"{start}{name}/2.tar")]
        assert expand_shards([f"{start}{name}.tar"]) == [Path(f"{start}{name}.tar")]


def test_a_double_star_looks_into_folders(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "100.tar").touch()
    shards = expand_shards([str(folder / "**" / "1*.tar")])
    assert names(shards) == ["100"]


def test_relative_paths_start_at_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert names(expand_shards(["{000..001}.tar", "002.tar"])) == ["000", "001", "002"]


def test_a_tilde_is_the_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert expand_shards(["~/00[01].tar", "~/{002..003}.tar"]) == [
        folder / f"00{number}.tar" for number in range(4)
    ]


def test_no_pattern_at_all_is_an_error() -> None:
    with pytest.raises(ShardError, match=r"No shards are given"):
        expand_shards([])


def test_missing_files_are_named_with_the_pattern_and_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ShardError) as caught:
        expand_shards(["{000..005}.tar"])
    message = str(caught.value)
    assert "2 of 6 shards do not exist: 004.tar, 005.tar" in message
    assert "{000..005}.tar" in message
    assert str(folder) in message


def test_of_many_missing_files_some_are_named(folder: Path) -> None:
    with pytest.raises(ShardError, match=r"95 of 100.* and 90 more"):
        expand_shards([str(folder / "{000..099}.tar")])


def test_a_folder_is_not_a_shard(folder: Path) -> None:
    with pytest.raises(ShardError, match=r"is a folder. Name the shards in it: .*/\*.tar"):
        expand_shards([str(folder)])


def test_a_glob_without_a_match_is_an_error_even_beside_one_with(folder: Path) -> None:
    with pytest.raises(ShardError, match=r"No file matches .*/9\*\.tar"):
        expand_shards([str(folder / "*.tar"), str(folder / "9*.tar")])


def test_a_shard_named_twice_is_an_error_under_any_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "link.tar").symlink_to(folder / "000.tar")
    for again in ("000.tar", "./000.tar", str(folder / "000.tar"), "00?.tar", "link.tar"):
        with pytest.raises(ShardError, match=r"more than once: .*000\.tar\. "):
            expand_shards(["000.tar", again])


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/000.tar", "https://host/{000..099}.tar", "pipe:cat 000.tar", "hf://datasets/x"],
)
def test_remote_shards_are_refused_by_name(url: str) -> None:
    with pytest.raises(ShardError) as caught:
        expand_shards([url])
    assert f"{url} is remote" in str(caught.value)


@pytest.mark.parametrize("pattern", ["{000..009.tar", "000..009}.tar", "{0,{1,2}.tar"])
def test_unbalanced_braces_are_an_error(pattern: str) -> None:
    with pytest.raises(ShardError, match=r"The braces in .* do not match"):
        expand_shards([pattern])


def test_sources_keep_what_each_pattern_names(folder: Path) -> None:
    patterns = [
        "https://host/{00..02}.tar?key=x",
        str(folder / "00[01].tar"),
        "pipe:curl -s 'https://host/{7,8}.tar' | awk '{print}'",
        "s3://bucket/a.tar",
        "http://[::1]:8000/{0,1}.tar",
        "pipe:list | awk '{print $1,$2}' | awk '{a[$1]={1}; if ($1) {print}}' ${X} > {a..b}{1,2}",
    ]
    assert expand_sources(patterns) == [
        [f"https://host/0{number}.tar?key=x" for number in range(3)],
        [folder / "000.tar", folder / "001.tar"],
        [f"pipe:curl -s 'https://host/{number}.tar' | awk '{{print}}'" for number in (7, 8)],
        ["s3://bucket/a.tar"],
        ["http://[::1]:8000/0.tar", "http://[::1]:8000/1.tar"],
        [
            "pipe:list | awk '{print $1,$2}' | awk '{a[$1]={1}; if ($1) {print}}' ${X} > " + last
            for last in ("a1", "a2", "b1", "b2")
        ],
    ]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ([], "No shards are given"),
        (["https://host/*.tar"], r"contains a glob.*Use braces"),
        (["s3://bucket/0[12].tar"], "contains a glob"),
        (["https://host/{0..9.tar"], "braces in .* do not match"),
        (["https://host/{1,2}.tar", "https://host/2.tar"], "named more than once: https://host/2"),
        (["{000,001}.tar", "./00[12].tar"], "named more than once"),
        (["https://host/1.tar", "nosuch.tar"], "1 of 1 shards do not exist"),
    ],
)
def test_sources_that_cannot_be_meant_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, patterns: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ShardError, match=message):
        expand_sources(patterns)
