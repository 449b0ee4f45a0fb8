"""Files under the state directory: whole, private, owned, and gone without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from zos.drivers import DriverError
from zos.drivers.file import FileDriver
from zos.plan.diff import diff
from zos.plan.items import File


async def converge(driver: FileDriver, *wanted: File) -> list[str]:
    ops = diff(wanted, await driver.observe(wanted))
    for op in ops:
        await driver.apply(op)
    return sorted(f"{op.verb} {op.key}" for op in ops)


async def test_content_mode_and_owner(tmp_path: Path) -> None:
    driver = FileDriver(tmp_path)
    item = File(path="machines/u-1/config.json", content="päss\n", owner="w-1")
    assert await converge(driver, item) == ["create file/machines/u-1/config.json"]
    path = tmp_path / item.path
    assert path.read_text() == "päss\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (await FileDriver(tmp_path).observe([]))[item.key].owner == "w-1"
    assert await converge(driver, item) == []


@pytest.mark.parametrize("harm", ["delete", "change", "open", "binary"])
async def test_drift_is_seen_and_mended(tmp_path: Path, harm: str) -> None:
    driver = FileDriver(tmp_path)
    item = File(path="a/b", content="right")
    await converge(driver, item)
    path = tmp_path / "a/b"
    match harm:
        case "delete":
            path.unlink()
        case "change":
            path.write_text("wrong")
        case "open":
            path.chmod(0o644)
        case "binary":
            path.write_bytes(b"\xff\xfe")
    assert await converge(driver, item) == ["update file/a/b"]
    assert path.read_text() == "right"
    assert path.stat().st_mode & 0o777 == 0o600


async def test_removal_takes_empty_directories_along_and_leaves_what_others_have(tmp_path: Path) -> None:
    driver = FileDriver(tmp_path)
    await converge(driver, File(path="m/1/config", content=""), File(path="m/2/config", content=""))
    (tmp_path / "m/2/console.log").write_text("of another driver")
    assert len(await converge(driver)) == 2
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["files", "m", "m/2", "m/2/console.log"]
    assert await converge(driver) == []


async def test_the_rooms_of_the_state_directory_stay(tmp_path: Path) -> None:
    (tmp_path / "machines").mkdir()
    driver = FileDriver(tmp_path)
    await converge(driver, File(path="machines/u/config", content=""))
    assert await converge(driver) == ["remove file/machines/u/config"]
    assert list((tmp_path / "machines").iterdir()) == []


async def test_a_file_that_is_gone_already_is_removed_all_the_same(tmp_path: Path) -> None:
    driver = FileDriver(tmp_path)
    await converge(driver, File(path="x", content=""))
    (tmp_path / "x").unlink()
    assert await converge(driver) == ["remove file/x"]
    assert await driver.observe([]) == {}


async def test_a_crash_between_card_and_file_leaves_no_orphan(tmp_path: Path) -> None:
    driver = FileDriver(tmp_path)
    await converge(driver, File(path="x", content="1", owner="w"))
    (tmp_path / "x").rename(tmp_path / ".x.new")  # as if the agent died before the rename
    assert (await driver.observe([]))["file/x"].item is None
    assert await converge(driver, File(path="x", content="1", owner="w")) == ["update file/x"]
    assert not (tmp_path / ".x.new").exists()


@pytest.mark.parametrize("content", [None, "", "garbage", "[]"])
async def test_a_card_that_is_lost_takes_no_file_away(tmp_path: Path, content: str | None) -> None:
    item = File(path="x", content="1", owner="w")
    await converge(FileDriver(tmp_path), item)
    (card,) = (tmp_path / "files").iterdir()
    if content is None:
        card.unlink()
    else:
        card.write_text(content)
    driver = FileDriver(tmp_path)
    assert await converge(driver) == []
    assert (tmp_path / "x").read_text() == "1"
    assert await converge(driver, item) == ["create file/x"]
    assert await converge(driver, item) == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ""])
async def test_paths_outside_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(DriverError, match="not a path inside"):
        await converge(FileDriver(tmp_path / "state"), File(path=path, content=""))
