"""A real etcd and kube-apiserver for tests, on free ports of 127.0.0.1, with the project's CRDs."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gridlib.served import serves
from gridlib.tools import etcd, program
from zos.manifests.admission import restricting

CRDS = Path(__file__).parent.parent / "crds"


def free_port() -> int:
    """A port that nobody listens at. Below those that the kernel gives to connections going out: one of these may take it
    before the server does."""
    while True:
        port = 15000 + secrets.randbelow(15000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _answers(url: str) -> bool:
    """Whether a server says that it is well; whoever it is."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, context=context, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@dataclass
class ApiServer:
    """``kubeconfig`` is an administrator's. ``user`` makes another user's, without rights."""

    directory: Path
    port: int = field(default_factory=free_port)
    etcd_port: int = field(default_factory=free_port)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)
    _starter: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> str:
        return str(self.directory / "kubeconfig")

    def start(self, users: tuple[str, ...] = ()) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        key = self.directory / "sa.key"
        if not key.exists():
            subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        self._tokens = {name: self._tokens.get(name) or secrets.token_hex(16) for name in ("admin", *users)}
        lines = [
            f'{token},{name},{name},"{"system:masters" if name == "admin" else ""}"' for name, token in self._tokens.items()
        ]
        (self.directory / "tokens.csv").write_text("\n".join(lines) + "\n")
        self._write_kubeconfig("admin", Path(self.kubeconfig))
        self.start_etcd()
        self.start_api()

    def start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{free_port()}"
        self._spawn(
            "etcd", etcd(), "--data-dir", str(self.directory / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
            "--log-level", "error",
        )  # fmt: skip
        # An API server gives a store twenty seconds to answer, then ends, and nobody starts it again here.
        self._until("etcd", lambda: _answers(f"{client}/health"))

    def start_api(self) -> None:
        key = str(self.directory / "sa.key")
        self._spawn(
            "kube-apiserver", program("kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--cert-dir={self.directory / 'certs'}", f"--secure-port={self.port}", "--bind-address=127.0.0.1",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc", f"--token-auth-file={self.directory / 'tokens.csv'}",
            # Nobody comes there (RFC 5737); a machine without a default route has no address to offer.
            "--advertise-address=192.0.2.1",
            "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged",
        )  # fmt: skip
        self._until("kube-apiserver", lambda: _answers(f"{self.url}/readyz"))

    def start_controllers(self, *names: str) -> None:
        """Kubernetes' own controllers, those named (``resourcequota-controller`` …)."""
        self._spawn(
            "kube-controller-manager", program("kube-controller-manager"), f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false", "--secure-port=0", f"--controllers={','.join(names)}",
        )  # fmt: skip

    def kill(self, name: str) -> None:
        """kill -9 of ``etcd`` or ``kube-apiserver``."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def snapshot(self, name: str) -> None:
        """Keeps etcd's state as it is now. Everything is stopped for it and started again."""
        self._swap(lambda: shutil.copytree(self.directory / "etcd", self.directory / name))

    def restore(self, name: str) -> None:
        """Brings an earlier state back, as from a backup: versions go back with it."""

        def put_back() -> None:
            shutil.rmtree(self.directory / "etcd")
            shutil.copytree(self.directory / name, self.directory / "etcd")

        self._swap(put_back)

    def _swap(self, work: Callable[[], object]) -> None:
        self.kill("kube-apiserver")
        self.kill("etcd")
        work()
        self.start_etcd()
        self.start_api()

    def erase(self, key: str) -> None:
        """Deletes a key of etcd, behind the API server's back. (etcd's JSON gateway, ``/v3/kv/deleterange``.)"""
        body = json.dumps({"key": base64.b64encode(key.encode()).decode()}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.etcd_port}/v3/kv/deleterange", body, timeout=5) as response:
            assert json.load(response)["deleted"] == "1", key

    def user(self, name: str) -> str:
        """Kubeconfig of a user that ``start`` was told of."""
        path = self.directory / f"kubeconfig-{name}"
        self._write_kubeconfig(name, path)
        return str(path)

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        result = subprocess.run(
            [program("kubectl"), "--kubeconfig", self.kubeconfig, *args], input=stdin, capture_output=True, text=True
        )
        if check and result.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(args)}: {result.stderr}")
        return result.stdout

    def install(self) -> None:
        """The project's CRDs, served, and what agents and the controller are held to."""
        policies = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(restricting())})
        self.kubectl("apply", "--server-side", "-f", "-", stdin=policies)
        self.define(CRDS)

    def define(self, crds: Path) -> None:
        """Applies CRDs, and waits until all kinds are served: Established says only that they will be, and its condition is not
        there at once."""
        self.kubectl("apply", "--server-side", "-f", str(crds))
        if not serves(CRDS, lambda *words: self.kubectl(*words, check=False)):
            raise RuntimeError((self.directory / "kube-apiserver.log").read_text()[-3000:])

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()

    def _until(self, name: str, ready: Callable[[], bool]) -> None:
        """Waits until a program that was just started is ready."""
        deadline = time.monotonic() + 120
        while not ready():
            if self._processes[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / f"{name}.log").read_text()[-3000:])
            time.sleep(0.1)

    def _spawn(self, name: str, *argv: str) -> None:
        with open(self.directory / f"{name}.log", "ab") as log:
            # It does not outlive who uses it, whatever becomes of that. (Linux means the thread that started it, so that is one
            # which ends with the process.)
            dying = ("setpriv", "--pdeathsig", "KILL", "--", *argv)
            started = self._starter.submit(subprocess.Popen, dying, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            self._processes[name] = started.result()

    def _write_kubeconfig(self, user: str, path: Path) -> None:
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}],
                    "users": [{"name": user, "user": {"token": self._tokens[user]}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": user}}],
                    "current-context": "x",
                }
            )
        )
        path.chmod(0o600)


@contextlib.contextmanager
def running(directory: Path, users: tuple[str, ...] = ()) -> Iterator[ApiServer]:
    server = ApiServer(directory)
    try:
        server.start(users)
        server.install()
        yield server
    finally:
        server.stop()
