"""Machines and disks, as a user has them: what they get, what they keep, and what they are told when something is wrong."""

from __future__ import annotations

import base64
import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from guests import Guests
from harness import IMAGE, REGISTRY, Grid, obj, until
from stories import runpolicies

STAY = "; while :; do sleep 1; done"


@pytest.fixture
def guests(grid: Grid, namespace: str) -> Guests:
    made = Guests(grid, namespace)
    made.network()
    return made


@pytest.fixture
def shelf(grid: Grid, namespace: str) -> Iterator[Path]:
    """A directory of the test's own below the one that the nodes of a minigrid open for images."""
    made = grid.root / "images" / namespace
    made.mkdir(parents=True)
    yield made
    shutil.rmtree(made)


def root(directory: Path, word: str = "") -> Path:
    """A small root file system, with ``word`` in /word."""
    (directory / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", directory / "bin/busybox")
    for tool in ("sh", "cat", "sleep", "echo"):
        (directory / "bin" / tool).symlink_to("busybox")
    (directory / "word").write_text(word)
    return directory


def test_a_disk_outlives_machines_and_a_root_outlives_restarts(guests: Guests) -> None:
    script = "cat /data/kept /kept; date +%s >/data/kept; echo of the root >/kept; sync; echo written" + STAY
    guests.grid.apply(guests.namespace, obj("ZMount", "data", size="300Mi"))
    guests.apply("one", script, disks=[{"name": "data", "mountPath": "/data"}])
    guests.ready("one")
    guests.prints("one", "^written$")
    mount = guests.grid.get("zmount", "data", guests.namespace)
    assert mount is not None
    assert (mount["status"]["usedBy"], mount["status"]["nodeName"]) == ("one", "n1")
    # Restarted: the root is still there.
    guests.grid.kubectl("annotate", "zmachine", "one", "-n", guests.namespace, "--overwrite", "zos.grid.tf/restartedAt=now")
    guests.prints("one", "^of the root$")
    assert guests.status("one").get("restarts", 0) == 0
    # Deleted and made again: the root is new, the disk is not.
    stamps = [line for line in guests.prints("one", r"written\n(.*\n)*written$").splitlines() if line.isdigit()]
    assert len(stamps) == 1
    guests.delete("zmachine", "one")
    guests.apply("two", "cat /data/kept /kept; echo read" + STAY, disks=[{"name": "data", "mountPath": "/data"}])
    text = guests.prints("two", "^read$")
    assert [line for line in text.splitlines() if line.isdigit()] > stamps
    assert "of the root" not in text


def test_a_disk_is_used_by_one_and_not_deleted_under_it(guests: Guests) -> None:
    guests.grid.apply(guests.namespace, obj("ZMount", "data", size="64Mi"))
    guests.apply("one", "echo up" + STAY, disks=[{"name": "data", "mountPath": "/data"}])
    guests.ready("one")
    guests.apply("two", "echo up" + STAY, disks=[{"name": "data", "mountPath": "/data"}])
    guests.says("two", "one", "Conflict")
    guests.grid.kubectl("delete", "zmount", "data", "-n", guests.namespace, "--wait=false")
    guests.grid.says(guests.namespace, "zmount", "data", "one")
    assert guests.status("one")["state"] == "Running"
    guests.grid.kubectl("delete", "zmachine", "one", "two", "-n", guests.namespace, "--timeout=60s")
    until(lambda: guests.grid.get("zmount", "data", guests.namespace) is None, 20, "the disk goes when nobody uses it")


def test_a_disk_grows_under_a_running_machine_and_never_shrinks(guests: Guests) -> None:
    guests.grid.apply(guests.namespace, obj("ZMount", "data", size="16Mi"), obj("ZMount", "more", size="300Mi"))
    disks = [{"name": "data", "mountPath": "/data"}, {"name": "more", "mountPath": "/more"}]
    guests.apply("one", "while :; do df -m /data /more; sleep 1; done", disks=disks)
    guests.prints("one", r"^/dev/vda +16 (.*\n)+/dev/vdb +300 ")
    # Any number of bytes: a small one gets what its file system can grow to, and says so.
    guests.grid.apply(guests.namespace, obj("ZMount", "data", size=100_000_001), obj("ZMount", "more", size="400Mi"))
    guests.prints("one", r"^/dev/vda +256 (.*\n)+/dev/vdb +400 ")
    until(lambda: guests.grid.get("zmount", "data", guests.namespace)["status"]["size"] == "256Mi", 20, "the size is said")
    assert guests.status("one").get("restarts", 0) == 0
    said = guests.grid.refused(guests.namespace, obj("ZMount", "more", size="200Mi"))
    assert "a disk only grows" in said


def test_a_disk_begins_as_a_copy_of_one_that_stands_still(guests: Guests) -> None:
    """Both are then two disks, in one machine too."""
    data, copy = ({"name": name, "mountPath": f"/{name}"} for name in ("data", "copy"))
    guests.grid.apply(guests.namespace, obj("ZMount", "data", size="64Mi"))
    script = "echo first >/data/kept; sync; echo written" + STAY
    guests.apply("one", script, disks=[data])
    guests.prints("one", "^written$")
    guests.grid.apply(guests.namespace, obj("ZMount", "copy", size="64Mi", source={"zmount": {"name": "data"}}))
    guests.grid.says(guests.namespace, "zmount", "copy", "used by ZMachine one, which runs: set its runPolicy to Halted")
    guests.apply("one", script, disks=[data], runPolicy="Halted")
    guests.grid.ready(guests.namespace, "zmount/copy")
    guests.delete("zmachine", "one")
    script = "cat /copy/kept; echo second >/copy/kept; sync; cat /data/kept; echo read" + STAY
    guests.apply("two", script, disks=[data, copy])
    assert "first\nfirst\nread\n" in guests.prints("two", "^read$")
    used = until(lambda: guests.grid.get("zmount", "copy", guests.namespace)["status"].get("usedBytes"), 10, "it says its use")
    assert used


def test_the_root_has_its_size_and_no_more(guests: Guests) -> None:
    script = "fallocate -l 400M /fits && echo fits; fallocate -l 200M /big && echo big; rm /big; echo still >/here; cat /here"
    guests.apply("one", script + STAY)
    text = guests.prints("one", "^still$")
    assert {"fits", "big"} & set(text.splitlines()) == {"fits"}
    assert "No space left on device" in text


def test_environment_secrets_hostname_and_names(guests: Guests) -> None:
    value = "pass word\nof two lines"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": value}}
    guests.grid.apply(guests.namespace, secret)
    guests.apply(
        "one",
        'echo "$PLAIN|$SECRET|"; hostname; pwd; nslookup registry.grid.example; echo all' + STAY,
        env=[{"name": "PLAIN", "value": "a b"}, {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    )
    text = guests.prints("one", "^all$")
    assert f"a b|{value}|" in text
    assert "\none\n/\n" in text
    assert f"Address: {REGISTRY.partition(':')[0]}\n" in text or f"Address 1: {REGISTRY.partition(':')[0]}" in text
    # What is in the workload object is sealed for the node.
    workloads = guests.grid.kubectl("get", "nodeworkloads", "-n", "zos-node-n1", "-o", "yaml")
    assert "pass word" not in workloads
    assert base64.b64encode(value.encode()).decode() not in workloads


def test_the_images_own_entrypoint(guests: Guests) -> None:
    guests.apply("one", None)
    guests.ready("one")
    ip = guests.status("one")["ip"]
    said = until(
        lambda: guests.grid.run("n1", "ip", "netns", "exec", _router(guests), "wget", "-qO-", "-T", "3", f"http://{ip}/"), 20
    )
    assert "hello from one" in said


def _router(guests: Guests) -> str:
    return guests.grid.run("n1", "sh", "-c", "ls -t /run/netns | grep ^zos- | head -1").strip()


def test_run_policies(guests: Guests) -> None:
    runpolicies.end_and_begin_again(guests)
    runpolicies.stop_and_start(guests)


def test_an_entrypoint_that_ends_at_once_is_a_crash_loop_until_mended(guests: Guests) -> None:
    guests.apply("one", "echo broken; exit 9")
    guests.says("one", "exit code 9", "CrashLoop", 180)
    # Another try of the same would come in a minute; what was mended is tried at once.
    guests.apply("one", "echo mended" + STAY)
    guests.ready("one", seconds=30)


def test_archives_and_directories_as_images(guests: Guests, shelf: Path) -> None:
    archive = shelf / "root.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root(shelf / "packed", "from the archive\n"), ".")
    root(shelf / "tree", "from the tree\n")
    guests.apply("archive", "cat /word" + STAY, image=f"file://{archive}")
    guests.apply("tree", "cat /word" + STAY, image=f"file://{shelf}/tree")
    guests.prints("archive", "^from the archive$")
    guests.prints("tree", "^from the tree$")


def test_bad_images_say_what_to_do_and_heal(guests: Guests, shelf: Path) -> None:
    (shelf / "noise.tar").write_bytes(b"noise" * 10000)
    outside = root(shelf / "outside")
    (outside / "etc").symlink_to("../../../../etc")
    late = shelf / "late.tar"
    for name, image, words in (
        ("unknown", f"oci://{REGISTRY}/zos/absent:1", "does not exist there; check name and tag"),
        ("closed", "oci://198.51.100.250:5000/zos/hello:1", "the node's owner can open it with --image-network"),
        ("own", "file:///etc", "is not below a directory that this node opens for images"),
        ("noise", f"file://{shelf}/noise.tar", "neither a tar archive nor a disk image"),
        ("outside", f"file://{outside}", "/etc -> ../../../../etc leads out of the image's root"),
        ("late", f"file://{late}", f"there is no {late} on this node"),
    ):
        guests.apply(name, "echo up" + STAY, image=image)
        guests.says(name, words, "ImageInvalid", 60)
    with tarfile.open(late, "w") as tar:
        tar.add(root(shelf / "good"), ".")
    # Nobody touches the machine: the image appears.
    guests.ready("late", seconds=90)
    guests.apply("unknown", "echo up" + STAY, image=IMAGE)
    guests.ready("unknown", seconds=60)


def test_an_entrypoint_that_the_image_has_not(guests: Guests) -> None:
    absent = guests.spec("one", None, entrypoint=["/bin/absent", "x"])
    guests.grid.apply(guests.namespace, absent)
    guests.says("one", "entrypoint /bin/absent not found in the image", "InvalidSpec")
    guests.apply("one", "echo up" + STAY)
    guests.ready("one")


def test_what_does_not_fit_is_told_in_numbers(guests: Guests) -> None:
    guests.apply("huge", "echo up" + STAY, memory="500Gi")
    said = guests.says("huge", "node n1 lacks memory: ", "InsufficientCapacity")
    assert " asked, " in said["message"]
    assert " free of 16" in said["message"]
    guests.grid.apply(guests.namespace, obj("ZMount", "vast", size="5000Gi", nodeName="n1"))
    guests.grid.says(guests.namespace, "zmount", "vast", "asked", "InsufficientCapacity")
    guests.apply("huge", "echo up" + STAY, memory="256Mi")
    guests.ready("huge")


def test_unknown_things_are_waited_for(guests: Guests) -> None:
    guests.apply("one", "echo up" + STAY, network={"name": "later"}, disks=[{"name": "later", "mountPath": "/data"}])
    guests.says("one", "later", "DependencyNotReady")
    guests.grid.apply(guests.namespace, obj("Network", "later", ipRange="10.30.0.0/16", nodes=[{"name": "n1"}]))
    guests.grid.apply(guests.namespace, obj("ZMount", "later", size="64Mi"))
    guests.ready("one")


def test_a_changed_machine_runs_on_until_it_is_restarted(guests: Guests) -> None:
    guests.apply("one", "echo up as $WORD" + STAY, env=[{"name": "WORD", "value": "first"}])
    guests.prints("one", "up as first")
    pid = guests.qemu("one")
    guests.apply("one", "echo up as $WORD" + STAY, env=[{"name": "WORD", "value": "second"}], memory="300Mi")
    until(
        lambda: guests.grid.condition("zmachine", "one", guests.namespace, "RestartRequired")["status"] == "True",
        20,
        "RestartRequired",
    )
    message = guests.grid.condition("zmachine", "one", guests.namespace, "RestartRequired")["message"]
    assert "memory, env changed" in message
    assert guests.qemu("one") == pid
    guests.grid.kubectl("annotate", "zmachine", "one", "-n", guests.namespace, "--overwrite", "zos.grid.tf/restartedAt=now")
    guests.prints("one", "up as second")
    guests.ready("one")
    assert guests.grid.condition("zmachine", "one", guests.namespace, "RestartRequired")["status"] != "True"


def test_pushed_later(guests: Guests, tmp_path: Path) -> None:
    """An image that is published after the machine was asked for."""
    name = f"{REGISTRY}/zos/late-{guests.namespace}:1"
    guests.apply("one", None, image=f"oci://{name}")
    guests.says("one", "does not exist there")
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    guests.grid.run("cp", "skopeo", "copy", "-q", *plain, f"docker://{IMAGE.removeprefix('oci://')}", f"docker://{name}")
    guests.ready("one", seconds=90)


def test_keys_for_ssh(guests: Guests) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0Zl0 me@example"
    guests.apply("one", "cat /root/.ssh/authorized_keys; ls -l /root/.ssh; echo shown" + STAY, sshAuthorizedKeys=[key])
    text = guests.prints("one", "^shown$")
    assert key in text
    assert "-rw-------" in text


def test_hostile_archive_touches_nothing(guests: Guests, shelf: Path) -> None:
    victim = shelf / "victim"
    victim.mkdir()
    (victim / "file").write_text("kept")
    archive = shelf / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        door = tarfile.TarInfo("door")
        door.type, door.linkname = tarfile.SYMTYPE, str(victim)
        tar.addfile(door)
        through = tarfile.TarInfo("door/file")
        through.size = 4
        tar.addfile(through, io.BytesIO(b"evil"))
    guests.apply("one", "echo up" + STAY, image=f"file://{archive}")
    guests.says("one", "/door", "ImageInvalid")
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("../../../../../../../../" + str(victim)[1:] + "/other"))
    guests.says("one", "leads out of the archive's root", "ImageInvalid")
    assert [(path.name, path.read_text()) for path in victim.iterdir()] == [("file", "kept")]
