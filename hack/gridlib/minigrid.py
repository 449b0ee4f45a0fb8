"""hack/minigrid: up, status, exec, logs, down."""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "operator"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from gridlib import chart, cluster, farm, wires
from gridlib.archives import load_images
from gridlib.controlplane import ControlPlane
from gridlib.host import Host, began
from gridlib.kinds import with_kinds
from gridlib.layout import MADE, Grid, GridError, load, patience, plan, state_root
from gridlib.node import NodeHost, gridnode
from gridlib.tools import KubeletTools, Tools


@contextmanager
def _step(text: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"  {text} … ", end="", flush=True)
    yield
    print(f"{time.monotonic() - began:.1f} s", flush=True)


def up(arguments: argparse.Namespace) -> None:
    tools = Tools.find()
    with _locked():
        _sweep()
        grid = load(arguments.name)
        if grid is None:
            names = arguments.node_names.split(",") if arguments.node_names else None
            hidden = 1 if arguments.hidden is None and arguments.nodes > 2 else arguments.hidden or 0
            count = len(names) if names else arguments.nodes
            controllers = arguments.controllers or (2 if arguments.kubernetes else 1)
            grid = plan(arguments.name, count, hidden, controllers, names, arguments.kubernetes)
            grid = replace(grid, owner=f"{arguments.owner} {began(arguments.owner)}" if arguments.owner else "")
        if arguments.kinds is not None:
            grid = replace(grid, kinds=tuple(filter(None, arguments.kinds.split(","))))
        if arguments.kubernetes and not grid.kubernetes:
            raise GridError(f"minigrid {grid.name} was made without kubelets: hack/minigrid down --name {grid.name} first")
        if arguments.images and not grid.kubernetes:
            raise GridError("--images are for a minigrid whose nodes have kubelets: add --kubernetes")
        grid.save()

    print(f"minigrid {grid.name}: {len(grid.nodes)} nodes, {sum(node.hidden for node in grid.nodes)} hidden")
    with _step("wires"):
        wires.make(grid)
        farm.connect(grid)
    control_plane = ControlPlane(grid, tools)
    with _step("control plane"):
        control_plane.start()
    if grid.kubernetes:
        _up_kubernetes(grid, control_plane)
        if arguments.images:
            _install(grid, control_plane, arguments)
        else:
            chart.ready(grid, control_plane)
    else:
        _up(grid, control_plane, arguments.accelerator)
    print(f"for kubectl in this shell: {_enter(grid)}")


def _up(grid: Grid, control_plane: ControlPlane, accelerator: str) -> None:
    with _step("CRDs and rights"):
        control_plane.install(with_kinds(grid.kinds), [farm.manifest(), *map(gridnode, grid.nodes)])
    with _step("nodes"):
        Host(grid, "laptop").start()
        farm.start(grid)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda node: NodeHost(grid, node, control_plane.tools).start(control_plane, accelerator), grid.nodes))
    with _step("agents"):
        control_plane.kubectl("wait", "gridnodes", "--all", "--for=condition=Ready", f"--timeout={patience(90):.0f}s")


def _up_kubernetes(grid: Grid, control_plane: ControlPlane) -> None:
    with _step("nodes"):
        Host(grid, "laptop").start()
        farm.start(grid)
        cluster.start(grid, control_plane)


def _install(grid: Grid, control_plane: ControlPlane, arguments: argparse.Namespace) -> None:
    with _step("images"):
        images = load_images(grid, sorted(arguments.images.glob("*.tar")))
    with _step("chart, agents"):
        chart.install(grid, control_plane, chart.values(grid, images, arguments.accelerator), arguments.chart)


def status(arguments: argparse.Namespace) -> None:
    grid = _grid(arguments.name)
    for name in grid.hosts:
        if name in ("switch", "nat"):
            continue
        host = Host(grid, name)
        pid = host.pid()
        print(f"{name}: {'down' if pid is None else f'up, first process {pid}'}")
        if pid is None:
            continue
        for line in host.run("ip", "-br", "addr", "show", "scope", "global").splitlines():
            print(f"    {' '.join(line.split())}")
        for service in host.run("sh", "-c", "ls /run/service").split():
            state = host.run("s6-svstat", f"/run/service/{service}", check=False).strip()
            print(f"    {service}: {state or 'not supervised yet'}")
    print(f"for kubectl in this shell: {_enter(grid)}")
    kubectl = ControlPlane(grid, Tools.find()).kubectl
    if grid.kubernetes:
        print(kubectl("get", "nodes", "-o", "wide", check=False), end="")
        print(kubectl("get", "pods", "-A", "-o", "wide", check=False), end="")
    print(kubectl("get", "gridnodes", "-o", "wide", check=False), end="")


def execute(arguments: argparse.Namespace) -> None:
    host = Host(_grid(arguments.name), _known(arguments.name, arguments.host))
    os.execvp("nsenter", host.command(*(arguments.command or ["bash"])))


def logs(arguments: argparse.Namespace) -> None:
    grid = _grid(arguments.name)
    directory = grid.directory(_known(arguments.name, arguments.host)) / "log"
    found = sorted(path.parent.name for path in directory.glob("*/current"))
    if arguments.service is None and len(found) != 1:
        raise GridError(f"which service of {arguments.host}? {', '.join(found) or 'it has no logs yet'}")
    path = directory / (arguments.service or found[0]) / "current"
    if not path.exists():
        raise GridError(f"{arguments.host} has no log of {arguments.service}: there are {', '.join(found)}")
    os.execvp("tail", ["tail", "-n", str(arguments.lines), *(["-F"] if arguments.follow else []), str(path)])


def crash(arguments: argparse.Namespace) -> None:
    Host(_grid(arguments.name), _known(arguments.name, arguments.host)).crash()


def down(arguments: argparse.Namespace) -> None:
    names = [path.parent.name for path in state_root().glob(f"*/{MADE}")] if arguments.all else [arguments.name]
    for name in names:
        grid = load(name)
        if grid is None:
            others = sorted(path.parent.name for path in state_root().glob(f"*/{MADE}"))
            print(f"minigrid {name} is not there" + (f"; there are (--name): {', '.join(others)}" if others else ""))
            continue
        with _step(f"minigrid {name}: stopping"):
            _remove(grid)
    if state_root().is_dir() and not any(state_root().iterdir()):
        state_root().rmdir()


def _remove(grid: Grid) -> None:
    for host in grid.hosts:
        Host(grid, host).crash()
    wires.remove(grid)
    for path in grid.root.iterdir():
        if path.name != MADE:  # by which it is found again should this be killed
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    shutil.rmtree(grid.root)


def _sweep() -> None:
    """Takes away the grids that were made for a process which is gone: a test run that was killed."""
    for path in state_root().glob(f"*/{MADE}"):
        grid = load(path.parent.name)
        if grid is None or not grid.owner:
            continue
        pid, since = grid.owner.split()
        if began(int(pid)) != since:
            with _step(f"minigrid {grid.name}: nobody's any more, stopping"):
                _remove(grid)


def kubeconfig(arguments: argparse.Namespace) -> None:
    print(_grid(arguments.name).kubeconfig)


def environment(arguments: argparse.Namespace) -> None:
    grid = _grid(arguments.name)
    print(f"export KUBECONFIG={shlex.quote(str(grid.kubeconfig))}")
    programs = [Tools.find().kubectl, *([KubeletTools.find().helm] if grid.kubernetes else [])]
    places = dict.fromkeys(shlex.quote(str(Path(program).parent)) for program in programs)
    print(f"export PATH={':'.join(places)}:$PATH")


def _enter(grid: Grid) -> str:
    """What to type for it."""
    return f'eval "$(hack/minigrid env --name {grid.name})"'


def _grid(name: str) -> Grid:
    grid = load(name)
    if grid is None:
        raise GridError(f"there is no minigrid {name}: hack/minigrid up --name {name}")
    return grid


def _known(name: str, host: str) -> str:
    grid = _grid(name)
    if host not in grid.hosts:
        raise GridError(f"no host {host} in minigrid {name}: there are {', '.join(grid.hosts)}")
    return host


@contextmanager
def _locked() -> Iterator[None]:
    """One at a time picks a place for its grid."""
    state_root().mkdir(parents=True, exist_ok=True)
    with open(state_root().with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(prog="hack/minigrid", description="A whole grid on this machine.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, function: object, help: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=help)
        made.set_defaults(function=function)
        made.add_argument("--name", default=os.environ.get("ZOS_MINIGRID", "demo"), help="which minigrid (default: demo)")
        return made

    made = verb("up", up, "make it, or heal it")
    made.add_argument("--nodes", type=int, default=3)
    made.add_argument("--hidden", type=int, default=None, help="how many of them behind a NAT (default: 1 of 3 or more)")
    made.add_argument("--controllers", type=int, default=None, help="how many (default: 1; with --kubernetes 2)")
    made.add_argument("--node-names", help="comma-separated, instead of n1, n2, …")
    made.add_argument("--kubernetes", action="store_true", help="nodes have a kubelet, and the product comes by its chart")
    made.add_argument(
        "--images", type=Path, metavar="DIR",
        help="with --kubernetes: a folder with the product's images as OCI archives; they are installed by the chart",
    )  # fmt: skip
    made.add_argument("--chart", type=Path, default=chart.CHART, help="another one than the checkout's")
    made.add_argument("--accelerator", default="tcg", choices=("tcg", "kvm", "auto"))
    made.add_argument(
        "--owner", type=int, default=int(os.environ.get("ZOS_MINIGRID_OWNER", "0")), metavar="PID",
        help="a process that it is made for: once that is gone, the next up of any grid takes this one away",
    )  # fmt: skip
    made.add_argument(
        "--kinds", metavar="MODULES",
        help="kinds beside the product's own: comma-separated modules that have a KIND, in tests or on PYTHONPATH",
    )  # fmt: skip
    verb("status", status, "hosts, services, addresses, nodes")
    made = verb("exec", execute, "run a command on a host")
    made.add_argument("host")
    made.add_argument("command", nargs=argparse.REMAINDER)
    made = verb("logs", logs, "of a service on a host")
    made.add_argument("host")
    made.add_argument("service", nargs="?")
    made.add_argument("-f", "--follow", action="store_true")
    made.add_argument("-n", "--lines", type=int, default=100)
    made = verb("crash", crash, "kill a host with everything in it; up brings it back")
    made.add_argument("host")
    made = verb("down", down, "remove it without a trace")
    made.add_argument("--all", action="store_true")
    verb("kubeconfig", kubeconfig, "the administrator's")
    verb("env", environment, 'for a shell: eval "$(hack/minigrid env)" sets KUBECONFIG, and kubectl (and helm) into PATH')
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("hack/minigrid needs root: it makes namespaces. Run it with sudo.", file=sys.stderr)
        return 1
    try:
        arguments.function(arguments)
    except GridError as error:
        print(f"\nhack/minigrid: {error}", file=sys.stderr)
        return 1
    return 0
