"""The control plane of a minigrid: etcd, kube-apiserver, kube-controller-manager, the project's controllers, and beside
them a DNS server and an image registry."""

from __future__ import annotations

import base64
import json
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gridlib.host import Host, Service, run
from gridlib.layout import CONTROL_PLANE, DOMAIN, REGISTRY_PORT, SERVICES, Grid, GridError, Node, patience
from gridlib.served import serves
from gridlib.tools import Tools, program

if TYPE_CHECKING:
    from zos.kinds.kind import Kinds

API_PORT = 6443
_CONTROLLERS = (
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
)
#: What looks after pods and what makes them.
_POD_CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "statefulset-controller",
    "daemonset-controller",
    "job-controller",
    "cronjob-controller",
    "disruption-controller",
    "endpointslice-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
    "ttl-after-finished-controller",
)
#: As whom the API server asks kubelets.
_KUBELET_CLIENT = "apiserver-kubelet-client"


class ControlPlane:
    def __init__(self, grid: Grid, tools: Tools) -> None:
        self.grid = grid
        self.tools = tools
        self.host = Host(grid, "cp")
        self.files = grid.directory("cp") / "pki"

    def start(self) -> None:
        self._pki()
        own = [self._scheduler()] if self.grid.kubernetes else self._controllers()
        self.host.services([*self._kubernetes(), *own, self._dns(), self._registry()])
        self.host.start(f"{CONTROL_PLANE} registry.{DOMAIN}\n")
        deadline = time.monotonic() + patience(90)
        while "ok" not in self.kubectl("get", "--raw", "/readyz", check=False):
            if time.monotonic() > deadline:
                raise GridError(f"the API server does not get ready: hack/minigrid logs cp apiserver --name {self.grid.name}")
            time.sleep(0.1)

    def install(self, kinds: Kinds, objects: list[dict[str, object]]) -> None:
        """CRDs, the controller's rights and credentials, what the API server does to objects, and the first of them."""
        from zos.manifests import crd, install

        wanted, crds = install.files(kinds), self.grid.directory("cp") / "crds"
        crds.mkdir(parents=True, exist_ok=True)
        for name in crd.files(kinds):
            (crds / name).write_text(wanted[name])
        self._apply_files(str(crds))
        if not serves(crds, lambda *words: self.kubectl(*words, check=False)):
            raise GridError(f"the API server does not serve the CRDs: hack/minigrid logs cp apiserver --name {self.grid.name}")
        self._apply_files("-", input=wanted["rights.yaml"])
        path = self.grid.directory("cp") / "etc-zos" / "controller.kubeconfig"
        if not path.exists():
            self.credentials("zos-system", "zos-controller", path)
        self.apply_admitted(objects, wanted["admission.yaml"])

    def apply_admitted(self, objects: list[dict[str, object]], policies: str = "") -> None:
        """Objects of kinds that are new, with the policies that they have to pass."""
        # The part of the API server that applies policies learns of kinds by looking every five seconds.
        deadline = time.monotonic() + patience(60)
        while True:
            try:
                if policies:
                    self._apply_files("-", input=policies)
                return self.apply(objects)
            except GridError as error:
                if "There can be a delay" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def admit_kubelets(self, nodes: list[dict[str, object]]) -> None:
        """That the API server may ask kubelets, and their Nodes, with what they may not say of themselves."""
        binding: dict[str, object] = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": _KUBELET_CLIENT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:kubelet-api-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": _KUBELET_CLIENT}],
        }
        self.apply([binding, *nodes])

    def apply(self, objects: list[dict[str, object]]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        self._apply_files("-", input=json.dumps(items))

    def _apply_files(self, path: str, input: str | None = None) -> None:
        limit = f"--request-timeout={patience(32):.0f}s"  # by itself, kubectl asks what kinds there are for 32 s
        self.kubectl("apply", "--server-side", "--force-conflicts", limit, "-f", path, input=input)

    def credentials(self, namespace: str, account: str, path: Path) -> None:
        """Writes a kubeconfig with a token of a service account, as soon as that exists."""
        deadline = time.monotonic() + patience(60)
        while not (token := self.kubectl("create", "token", account, "-n", namespace, "--duration=87600h", check=False)):
            if time.monotonic() > deadline:
                raise GridError(f"no service account {namespace}/{account}: is the controller well? hack/minigrid logs cp")
            time.sleep(0.1)
        scratch = path.with_suffix(".new")
        scratch.touch(mode=0o600)
        scratch.write_text(self._config(token.strip(), str(CONTROL_PLANE)))
        scratch.replace(path)

    def accepts(self, path: Path) -> bool:
        """Whether the credentials in a kubeconfig are still good."""
        token = json.loads(path.read_text())["users"][0]["user"]["token"]
        return "system:serviceaccount:" in self.kubectl("--token", token, "auth", "whoami", "-o", "json", check=False)

    def kubectl(self, *words: str, input: str | None = None, check: bool = True) -> str:
        return run(self.tools.kubectl, "--kubeconfig", str(self.grid.kubeconfig), *words, input=input, check=check)

    def _pki(self) -> None:
        """A self-signed server certificate, the key that signs service accounts' tokens, and the administrator's token."""
        self.files.mkdir(parents=True, exist_ok=True)
        if not (self.files / "sa.pub").exists():
            names = f"IP:{CONTROL_PLANE},IP:{self.grid.api_address},IP:127.0.0.1,IP:{SERVICES[1]},DNS:kubernetes.default.svc"
            run(
                "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-days", "3650", "-subj", "/CN=minigrid", "-addext", f"subjectAltName={names}",
                "-keyout", str(self.files / "api.key"), "-out", str(self.files / "api.crt"),
            )  # fmt: skip
            run("openssl", "genrsa", "-out", str(self.files / "sa.key"), "2048")
            run("openssl", "rsa", "-in", str(self.files / "sa.key"), "-pubout", "-out", str(self.files / "sa.pub"))
        if not (self.files / "tokens.csv").exists():
            (self.files / "tokens.csv").touch(mode=0o600)
            lines = [f'{secrets.token_hex(16)},admin,admin,"system:masters"\n']
            if self.grid.kubernetes:
                lines += [f'{secrets.token_hex(16)},system:node:{n.name},{n.name},"system:nodes"\n' for n in self.grid.nodes]
            (self.files / "tokens.csv").write_text("".join(lines))
        if self.grid.kubernetes and not self.kubelet_client.exists():
            run(
                "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-days", "3650", "-subj", f"/CN={_KUBELET_CLIENT}",
                "-keyout", str(self.kubelet_client.with_suffix(".key")), "-out", str(self.kubelet_client),
            )  # fmt: skip
        token = (self.files / "tokens.csv").read_text().split(",")[0]
        self.grid.kubeconfig.touch(mode=0o600)
        self.grid.kubeconfig.write_text(self._config(token, str(self.grid.api_address)))
        manager = self.files / "kcm.kubeconfig"
        manager.touch(mode=0o600)
        manager.write_text(self._config(token, "127.0.0.1"))

    @property
    def kubelet_client(self) -> Path:
        """The certificate by which kubelets know the API server."""
        return self.files / "kubelet-client.crt"

    def kubelet_config(self, node: Node) -> str:
        """A kubeconfig of the node's own kubelet."""
        lines = (line.split(",") for line in (self.files / "tokens.csv").read_text().splitlines())
        return self._config(next(line[0] for line in lines if line[1] == f"system:node:{node.name}"), str(CONTROL_PLANE))

    def _config(self, token: str, server: str) -> str:
        authority = base64.b64encode((self.files / "api.crt").read_bytes()).decode()
        cluster = {"server": f"https://{server}:{API_PORT}", "certificate-authority-data": authority}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "minigrid", "cluster": cluster}],
                "users": [{"name": "user", "user": {"token": token}}],
                "contexts": [{"name": "minigrid", "context": {"cluster": "minigrid", "user": "user"}}],
                "current-context": "minigrid",
            }
        )

    def _kubernetes(self) -> list[Service]:
        at = self.files
        etcd = (
            f"exec {self.tools.etcd} --data-dir {self.grid.directory('cp')}/etcd --unsafe-no-fsync --log-level error "
            "--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 "
            "--listen-peer-urls http://127.0.0.1:2380"
        )
        api = (
            f"exec {self.tools.apiserver} --etcd-servers=http://127.0.0.1:2379 --secure-port={API_PORT} "
            f"--bind-address=0.0.0.0 --advertise-address={CONTROL_PLANE} "
            f"--tls-cert-file={at}/api.crt --tls-private-key-file={at}/api.key --cert-dir={at} "
            f"--service-account-key-file={at}/sa.pub --service-account-signing-key-file={at}/sa.key "
            "--service-account-issuer=https://kubernetes.default.svc "
            f"--token-auth-file={at}/tokens.csv --service-cluster-ip-range={SERVICES} "
            "--allow-privileged --profiling=false "
        )
        if self.grid.kubernetes:
            api += (
                "--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction "
                f"--kubelet-preferred-address-types=InternalIP --kubelet-client-certificate={self.kubelet_client} "
                f"--kubelet-client-key={self.kubelet_client.with_suffix('.key')} "
                "--enable-aggregator-routing=true"  # it reaches pods, and no service's address
            )
        else:
            api += "--authorization-mode=RBAC"
        manager = (
            f"exec {self.tools.controller_manager} --kubeconfig={at}/kcm.kubeconfig --leader-elect=false --secure-port=0 "
            f"--service-account-private-key-file={at}/sa.key --root-ca-file={at}/api.crt "
            f"--controllers={','.join(_CONTROLLERS + (_POD_CONTROLLERS if self.grid.kubernetes else ()))} "
            "--namespace-sync-period=30s"
        )
        if self.grid.kubernetes:
            manager += " --node-monitor-period=1s --node-monitor-grace-period=10s"
        return [Service("etcd", etcd), Service("apiserver", api), Service("controller-manager", manager)]

    def _scheduler(self) -> Service:
        return Service(
            "scheduler",
            f"exec {program('kube-scheduler')} --kubeconfig={self.files}/kcm.kubeconfig --leader-elect=false --secure-port=0",
        )

    def _controllers(self) -> list[Service]:
        config = "/etc/zos/controller.kubeconfig"
        return [
            Service(
                f"controller-{number}",
                f"while [ ! -s {config} ]; do sleep 0.1; done\n"
                f"{self.tools.program('controller', self.grid.kinds)} --kubeconfig {config} --identity controller-{number} "
                f"--metrics 127.0.0.1:{9440 + number}",
            )
            for number in range(1, self.grid.controllers + 1)
        ]

    def _dns(self) -> Service:
        return Service(
            "dns",
            f"exec dnsmasq --keep-in-foreground --no-resolv --no-hosts --log-facility=- --bind-interfaces "
            f"--listen-address={CONTROL_PLANE} --address=/registry.{DOMAIN}/{CONTROL_PLANE} "
            f"--address=/api.{DOMAIN}/{CONTROL_PLANE} --local=/{DOMAIN}/ --user=root --pid-file=",
        )

    def _registry(self) -> Service:
        config = self.grid.directory("cp") / "registry.json"
        config.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "storage": {"filesystem": {"rootdirectory": str(self.grid.directory("cp") / "registry")}},
                    "http": {"addr": f"0.0.0.0:{REGISTRY_PORT}"},
                }
            )
        )
        return Service("registry", f"exec docker-registry serve {config}")
