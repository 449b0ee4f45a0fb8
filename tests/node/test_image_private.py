"""Private registries: each shows his own credentials, and what is on the node is nobody's proof."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imageworks import converge, driver_of, entry, fact, leftovers, problem, push, serving, tar
from zos.plan.items import Image

#: A line of an htpasswd file, for the password "opensesame".
_LOGIN = "ours:$2b$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path, login=_LOGIN) as address:
        yield address


def with_login(ref: str, access: str, password: str = "opensesame") -> Image:
    auth = base64.b64encode(f"ours:{password}".encode()).decode()
    text = json.dumps({"auths": {ref.removeprefix("oci://").partition("/")[0]: {"auth": auth}}})
    return Image(ref=ref, owner="w-1", access=access, auth=text)


async def test_what_one_pulled_with_credentials_is_given_to_nobody_else(tmp_path: Path, images: Path, registry: str) -> None:
    digest = push(tmp_path, f"{registry}/app:1", [tar(tmp_path / "one.tar")], creds="ours:opensesame")
    driver, ref = driver_of(images), f"oci://{registry}/app:1"
    mine = with_login(ref, "aaaa")
    await converge(driver, mine)
    assert fact(driver, mine.name).digest == digest
    pinned = f"oci://{registry}/app@{digest}"
    for stranger in (ref, pinned):
        assert "the registry refuses access: name a Secret with credentials for it in imagePullSecrets" in await problem(
            driver, stranger
        )
    for wrong in (with_login(ref, "bbbb", "guessed"), with_login(pinned, "bbbb", "guessed")):
        said = await problem(driver, wrong)
        assert "the registry refuses the credentials that imagePullSecrets gives for it" in said
        assert "guessed" not in said
    # Who has access gets what is here, and nothing is fetched.
    for blob in (tmp_path / "registry").glob("**/blobs/sha256/*/*/data"):
        if blob.stat().st_size > 10_000:
            blob.unlink()
    other = with_login(ref, "cccc")
    await converge(driver, mine, other)
    assert fact(driver, other.name).digest == digest
    assert len(leftovers(images)) == 1
    assert await converge(driver_of(images), mine, other) == [], "a new agent knows who has shown his"


async def test_credentials_are_in_no_command_line_and_stay_nowhere(tmp_path: Path, images: Path, registry: str) -> None:
    big = tar(tmp_path / "big.tar", entry("noise", b"n" * (8 << 20)))
    push(tmp_path, f"{registry}/app:1", [big], creds="ours:opensesame")
    image = with_login(f"oci://{registry}/app:1", "aaaa")
    secret = json.loads(image.auth)["auths"][registry]["auth"]
    seen, over = set[str](), threading.Event()

    def look() -> None:
        while not over.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        text = (process / name).read_text(errors="replace")
                    except OSError:
                        continue
                    if "skopeo" in text:
                        seen.add(text)
            time.sleep(0.002)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        await converge(driver_of(images), image)
    finally:
        over.set()
        watcher.join()
    assert seen
    assert not [text for text in seen if secret in text or "opensesame" in text]
    kept = [path for path in images.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert kept == []
    assert secret not in repr(image)
    assert replace(image, auth="") == image
