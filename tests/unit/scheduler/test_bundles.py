"""Sources on a disk: under the hash of their bytes, sealed, checked, and kept for as long as a release needs them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from consensus.disk import NoSpace
from mesh.errors import DamagedError, ExhaustedError, MissingError, UsageError
from scheduler import bundles
from scheduler.bundles import KEPT_S_MIN, PIECE_BYTES, BundleStore
from tests.e2e.mounts import can_mount, small_disk

KEY = b"k" * 32


async def pieces(content: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def store_in(folder: Path) -> BundleStore:
    store = BundleStore(folder, KEY)
    await store.open_store()
    return store


async def whole(store: BundleStore, bundle: str) -> bytes:
    return b"".join([piece async for piece in store.read(bundle)])


def archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("app.py")
        info.size = 7
        tar.addfile(info, io.BytesIO(b"print()"))
    return packed.getvalue()


@pytest.mark.parametrize("size", [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
async def test_a_bundle_is_named_by_its_bytes_and_is_there_after_a_restart(size: int, tmp_path: Path) -> None:
    store = await store_in(tmp_path / "b")
    content = (b"freecloud " * (size // 10 + 1))[:size]
    stored = await store.put(pieces(content))
    assert (stored.bundle, stored.size_bytes) == (blake3(content).hexdigest(), size)
    again = await store_in(tmp_path / "b")
    assert again.list() == (stored.bundle,)
    assert await whole(again, stored.bundle) == content


async def test_nothing_of_it_stands_in_clear_on_the_disk(tmp_path: Path) -> None:
    store = await store_in(tmp_path / "b")
    await store.put(pieces(b"a secret recipe " * 1000))
    assert all(b"recipe" not in path.read_bytes() for path in (tmp_path / "b").iterdir())


async def test_a_stream_that_is_not_what_was_asked_for_is_not_kept(tmp_path: Path) -> None:
    store = await store_in(tmp_path / "b")
    with pytest.raises(DamagedError):
        await store.put(pieces(b"other"), expected=blake3(b"this").hexdigest())
    with pytest.raises(UsageError):
        await store.put(pieces(b""))
    assert not store.list()
    assert not list((tmp_path / "b").iterdir())


async def test_a_stream_that_never_ends_is_cut_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "BUNDLE_BYTES_MAX", 100_000)
    store = await store_in(tmp_path / "b")
    with pytest.raises(ExhaustedError):
        await store.put(pieces(b"x" * 100_001))
    assert not list((tmp_path / "b").iterdir())


@pytest.mark.parametrize("where", [0, 20, PIECE_BYTES + 40, -1])
async def test_one_flipped_bit_is_noticed_and_the_bundle_not_offered_any_more(where: int, tmp_path: Path) -> None:
    store = await store_in(tmp_path / "b")
    stored = await store.put(pieces(b"x" * 2 * PIECE_BYTES))
    (path,) = (tmp_path / "b").iterdir()
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        await whole(store, stored.bundle)
    assert not store.has(stored.bundle)
    with pytest.raises(MissingError):
        await whole(store, stored.bundle)


@pytest.mark.parametrize("left", [0, 16, 16 + PIECE_BYTES + 16])
async def test_a_file_cut_off_is_noticed_even_between_two_pieces(left: int, tmp_path: Path) -> None:
    store = await store_in(tmp_path / "b")
    stored = await store.put(pieces(b"x" * 2 * PIECE_BYTES))
    (path,) = (tmp_path / "b").iterdir()
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DamagedError):
        await store.unpack(stored.bundle, tmp_path / "app")
    assert not (tmp_path / "app").exists()


async def test_it_unpacks_into_a_new_folder(tmp_path: Path) -> None:
    store = await store_in(tmp_path / "b")
    stored = await store.put(pieces(archive()))
    assert await store.unpack(stored.bundle, tmp_path / "app") == 1
    assert (tmp_path / "app/app.py").read_bytes() == b"print()"


async def test_what_an_interrupted_write_left_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/0011.part").write_bytes(b"half")
    store = await store_in(tmp_path / "b")
    assert not store.list()
    assert not list((tmp_path / "b").iterdir())


@pytest.mark.autojump
async def test_what_no_release_names_goes_but_not_soon_after_it_came_or_after_a_start(tmp_path: Path) -> None:
    store = BundleStore(tmp_path / "b", KEY)
    await store.open_store()
    needed = (await store.put(pieces(b"needed"))).bundle
    needless = (await store.put(pieces(b"needless"))).bundle
    assert await store.keep_only([needed]) == 0
    await trio.sleep(KEPT_S_MIN + 1)
    restarted = await store_in(tmp_path / "b")
    assert await restarted.keep_only([]) == 0, "a ledger that is not read yet names nothing"
    assert await store.keep_only([needed]) == 1
    assert store.list() == (needed,)
    assert not store.has(needless)


async def test_a_full_disk_is_told_and_nothing_of_the_source_is_left(tmp_path: Path) -> None:
    if not can_mount(tmp_path / "probe"):
        pytest.skip("needs root: a disk that is full is a file system of its own")
    with small_disk(tmp_path / "disk", 256 * 1024) as disk:
        store = await store_in(disk / "bundles")
        for size in (200, 300, 2_000):  # one fits; another is over within a piece, a third long before its end
            content = bytes(size * 1024)
            if size == 200:
                kept = await store.put(pieces(content))
                continue
            with pytest.raises(NoSpace) as refused:
                await store.put(pieces(content))
            assert "bundles" in refused.value.why
            assert [path.suffix for path in (disk / "bundles").iterdir()] == [".bundle"]
        assert store.list() == (kept.bundle,)
        assert len(await whole(store, kept.bundle)) == 200 * 1024
