"""Fixtures of tests that read shards: a cache of their own, and real photos if there are any."""

from pathlib import Path

import pytest

PHOTOS = Path(__file__).parents[2] / "shared" / "photos"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test away from the user's cache. Not there until something is cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vqgan_train"


@pytest.fixture
def photo_shards() -> list[Path]:
    """Shards of real photos, where the machine has them."""
    shards = sorted(PHOTOS.glob("*.tar"))
    if not shards:
        pytest.skip(f"there are no photos in {PHOTOS}")
    return shards
