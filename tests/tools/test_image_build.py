"""Images of a cluster: layers that are the same whenever they are made of the same, the packages that go in, and what is said
of them. None of it builds Debian's part."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from imagelib import archive, closure, debian, gomodules, layer, ours, recipe, sbom
from imagelib.main import lacking

OPERATOR = recipe.CHECKOUT / "operator"


def tree(root: Path, order: tuple[str, ...]) -> Path:
    for name in order:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    (root / "bin/run").chmod(0o700)
    (root / "link").symlink_to("bin/run")
    return root


def read(made: layer.Layer) -> list[tarfile.TarInfo]:
    plain = subprocess.run(["zstd", "-dc", str(made.path)], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(plain)) as opened:
        return opened.getmembers()


def test_a_layer_is_the_same_whoever_made_its_files_and_when(tmp_path: Path) -> None:
    names = ("bin/run", "a/b/c", "a/" + "long" * 40)
    one, other = tree(tmp_path / "one", names), tree(tmp_path / "other", names[::-1])
    os.utime(other / "a/b/c", (1, 1))
    os.chown(other / "bin/run", 1000, 1000) if os.geteuid() == 0 else None
    (other / "a").chmod(0o700)
    first = layer.write(layer.of_tree(one), tmp_path / "first", "")
    second = layer.write(layer.of_tree(other), tmp_path / "second", "")
    assert first.digest == second.digest == layer.file_digest(tmp_path / "second")
    assert first.diff_id == second.diff_id != first.digest
    members = {member.name: member for member in read(first)}
    assert list(members) == sorted(members)
    assert {(member.uid, member.gid, member.mtime, member.uname) for member in members.values()} == {(0, 0, recipe.EPOCH, "")}
    assert (members["bin/run"].mode, members["a/b/c"].mode, members["a"].mode) == (0o755, 0o644, 0o755)
    assert members["link"].linkname == "bin/run"
    assert first.unpacked == sum(len(name) + 1 for name in names)


def test_another_byte_or_mode_is_another_layer(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ("bin/run", "a"))
    first = layer.write(layer.of_tree(root), tmp_path / "first", "")
    (root / "a").chmod(0o755)
    second = layer.write(layer.of_tree(root), tmp_path / "second", "")
    (root / "a").write_text("b\n")
    third = layer.write(layer.of_tree(root), tmp_path / "third", "")
    assert len({first.digest, second.digest, third.digest}) == 3


def archived(path: Path, order: tuple[str, ...]) -> Path:
    """As a bootstrapping tool leaves it: any order and time, devices, two names of one file, owners, an attribute."""
    made = {}
    for name in ("./", "./dev/", "./etc/"):
        made[name] = tarfile.TarInfo(name)
        made[name].type = tarfile.DIRTYPE
    made["./dev/null"] = tarfile.TarInfo("./dev/null")
    made["./dev/null"].type = tarfile.CHRTYPE
    made["./etc/z"] = tarfile.TarInfo("./etc/z")
    made["./etc/z"].size, made["./etc/z"].gid, made["./etc/z"].mode = 3, 42, 0o640
    made["./etc/z"].pax_headers = {"SCHILY.xattr.security.capability": "c", "mtime": "3.5", "ctime": "1.5"}
    made["./etc/a"] = tarfile.TarInfo("./etc/a")
    made["./etc/a"].type, made["./etc/a"].linkname = tarfile.LNKTYPE, "./etc/z"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as opened:
        for number, name in enumerate(order):
            made[name].mtime = number
            opened.addfile(made[name], io.BytesIO(b"abc"))
    return path


def test_an_archive_is_written_anew_in_order_without_devices_and_times(tmp_path: Path) -> None:
    order = ("./", "./dev/", "./dev/null", "./etc/", "./etc/z", "./etc/a")
    other = ("./etc/", "./etc/z", "./etc/a", "./", "./dev/null", "./dev/")
    first = layer.write_archive(archived(tmp_path / "1.tar", order), tmp_path / "first", "")
    second = layer.write_archive(archived(tmp_path / "2.tar", other), tmp_path / "second", "")
    assert first.digest == second.digest
    dev, etc, a, z = read(first)
    assert (dev.name, etc.name) == ("dev", "etc")
    assert (a.name, a.size, a.gid, a.mode, a.islnk()) == ("etc/a", 3, 42, 0o640, False)
    assert (z.name, z.islnk(), z.linkname) == ("etc/z", True, "etc/a")
    assert a.pax_headers == {"SCHILY.xattr.security.capability": "c"}
    assert first.unpacked == 3


def test_a_layer_is_remembered_beside_itself(tmp_path: Path) -> None:
    made = layer.write(layer.of_files({"a": b"x"}), tmp_path / "layer.tar.zst", "what")
    made.write_down(tmp_path / "layer.json")
    assert layer.Layer.read(tmp_path / "layer.json") == made


def test_an_archive_is_what_skopeo_reads_and_the_same_twice(tmp_path: Path) -> None:
    made = layer.write(layer.of_files({"opt/a": b"x"}), tmp_path / "layer", "what")
    image = recipe.IMAGES["controller"]

    def write(name: str) -> archive.Written:
        return archive.write(image, [made], {"t": "v"}, "2026-01-01T00:00:00Z", "localhost/zos/it:1.2", tmp_path / name)

    first, second = write("one.tar"), write("two.tar")
    assert first == second
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    said = subprocess.run(
        ["skopeo", "inspect", f"oci-archive:{tmp_path}/one.tar:1.2"], capture_output=True, text=True, check=True
    )
    told = json.loads(said.stdout)
    assert told["Digest"] == first.digest
    assert told["Layers"] == [made.digest]
    assert told["Labels"] == {"t": "v"}
    unpacked = f"dir:{tmp_path}/unpacked"
    subprocess.run(["skopeo", "copy", "-q", f"oci-archive:{tmp_path}/one.tar:1.2", unpacked], check=True)  # checks all digests


def test_bytecode_is_the_same_whatever_was_compiled_before_and_needs_no_times(tmp_path: Path) -> None:
    def compiled(room: Path, *names: str) -> dict[str, bytes]:
        for name in names:
            (room / "lib").mkdir(parents=True, exist_ok=True)
            (room / "lib" / name).write_text(
                f"X = {{'left', 'right', '{name}'}}\n\ndef f(left): return left in {{'a', 'b', 'c'}}\n"
            )
        program = [sys.executable, "-I", "-S", str(recipe.CONTAINERS / "bytecode"), str(room), "lib"]
        subprocess.run(program, check=True, env={"PYTHONHASHSEED": str(len(names))})
        return {path.name: path.read_bytes() for path in (room / "lib" / "__pycache__").iterdir()}

    alone, together = compiled(tmp_path / "1", "b.py"), compiled(tmp_path / "2", "a.py", "b.py")
    (name,) = alone
    assert together[name] == alone[name]
    (tmp_path / "1/lib/b.py").write_text("raise SystemExit('its source was asked')\n")
    environment = {"PYTHONPATH": str(tmp_path / "1/lib")}
    subprocess.run([sys.executable, "-c", "import b; assert b.f('a')"], check=True, env=environment)


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "zos/a").mkdir(parents=True)
    (tmp_path / "zos/__init__.py").write_text("import always\n")
    (tmp_path / "zos/a/__init__.py").write_text("from zos import b\n")
    (tmp_path / "zos/a/c.py").write_text("def f():\n    import lazy.deep, os\n")
    (tmp_path / "zos/b.py").write_text("if TYPE_CHECKING:\n    import never\nelse:\n    import then\n")
    (tmp_path / "zos/d.py").write_text("import elsewhere\n")
    assert closure.imported(tmp_path, ["zos.a"]) == {"always", "lazy", "then"}


#: Functions whose first words are a program and its arguments, and of how many of their own words those are behind.
_CALLS = {"run": 0, "lines": 0, "unpacker": 2, "fetcher": 2, "_setpriv": None, "_apart": None}
#: What is run where guests' kernels are built, and not on nodes.
_ELSEWHERE = {"guestbuild.py"}


def named(path: Path) -> Iterator[str]:
    for call in ast.walk(ast.parse(path.read_text())):
        match call:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=words) if _CALLS.get(name) is not None:
                match words[_CALLS[name] :]:
                    case [ast.Constant(value=str(program)), *_]:
                        yield program


def test_every_program_that_the_agent_runs_is_in_the_list() -> None:
    found = {program for path in (OPERATOR / "zos").rglob("*.py") if path.name not in _ELSEWHERE for program in named(path)}
    assert {"ip", "nft", "wg", "qemu-img", "skopeo", "mkfs.ext4", "s6-svc"} <= found  # that something is found
    assert found <= set(recipe.programs()), "add it to hack/images/containers/node.programs, and its package to node.packages"


def test_an_image_without_a_program_is_found_out() -> None:
    there = {program[1:] if program[0] == "/" else f"usr/bin/{program}" for program in recipe.programs()}
    assert lacking(there) == []
    assert lacking(there - {"usr/bin/wg", "usr/lib/qemu/virtiofsd"}) == ["wg", "/usr/lib/qemu/virtiofsd"]
    assert lacking(there - {"usr/bin/nft"} | {"usr/sbin/nft"}) == []


def test_programs_are_names_or_paths_and_in_order() -> None:
    names = [name for name in recipe.programs() if name[0] != "/"]
    assert names == sorted(set(names))


def test_packages_are_listed_once_and_none_is_installed_and_taken_away() -> None:
    for image in recipe.IMAGES.values():
        lines = [line for line in image.package_list.read_text().splitlines() if not line.startswith("#")]
        assert len({line.removeprefix("-") for line in lines}) == len(lines)
        assert lines == sorted(lines, key=lambda line: (line[0] == "-", line))


def test_containerfiles_say_what_the_build_says() -> None:
    for image in recipe.IMAGES.values():
        text = (recipe.CONTAINERS / f"{image.name}.Containerfile").read_text().replace("\\\n", "")
        assert f"ENTRYPOINT {json.dumps(list(image.entrypoint))}" in text
        assert f"USER {image.user}\n" in text
        assert f'title="{image.title}"' in text
        line = next(line for line in text.splitlines() if line.startswith("ENV "))
        assert tuple(line.split()[1:]) == image.environment


def test_who_an_image_is_follows_from_its_content(tmp_path: Path) -> None:
    one = layer.write(layer.of_files({"a": b"x"}), tmp_path / "1", "one")
    same = layer.write(layer.of_files({"a": b"x"}), tmp_path / "2", "same")
    other = layer.write(layer.of_files({"a": b"y"}), tmp_path / "3", "other")
    assert ours.identity("1.2.3", [one]) == ours.identity("1.2.3", [same]) != ours.identity("1.2.3", [other])
    version, _, content = ours.identity("1.2.3", [one]).partition("-")
    assert (version, len(content)) == ("1.2.3", 12)


def test_a_bill_of_materials_names_each_package_as_scanners_do(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2:1+deb12u1\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n"
    )
    packages = debian.packages(tmp_path / "status")
    text = sbom.written(recipe.IMAGES["node"], "1.2.3", packages, [("aiohttp", "3.1")], [("golang.org/x/sys", "v0.1.0")])
    told = json.loads(text)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.5")
    assert told["metadata"]["component"]["version"] == "1.2.3"
    assert [component["purl"] for component in told["components"]] == [
        "pkg:deb/debian/libc6@2%3A1%2Bdeb12u1?arch=amd64&distro=debian-12",
        "pkg:golang/golang.org/x/sys@v0.1.0",
        "pkg:pypi/aiohttp@3.1",
    ]


def test_what_a_go_program_was_built_of_stands_in_it(tmp_path: Path) -> None:
    frame = b"0123456789abcdef"
    told = (
        frame + b"path\tgolang.zx2c4.com/x\nmod\texample.org/x\tv1.2.3\th1:a=\ndep\tgolang.org/x/sys\tv0.44.0\th1:b=\n" + frame
    )
    version = b"go1.26.6"
    header = b"\xff Go buildinf:\x08\x02" + bytes(16)
    long = bytes([len(told) & 0x7F | 0x80, len(told) >> 7])
    (tmp_path / "program").write_bytes(b"\x7fELF..." + header + bytes([len(version)]) + version + long + told + b"rest")
    assert gomodules.modules(tmp_path / "program") == [("example.org/x", "v1.2.3"), ("golang.org/x/sys", "v0.44.0")]
    (tmp_path / "other").write_bytes(b"\x7fELF")
    assert gomodules.modules(tmp_path / "other") == []
