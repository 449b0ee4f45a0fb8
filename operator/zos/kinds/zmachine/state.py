"""How a machine stands on its node: what runs, which is not always what is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from math import ceil
from typing import Literal

from zos.api import names
from zos.api.meta import Condition, Reason
from zos.api.nodeworkload import Owner, Run, RunningNic, RunningPublicNic
from zos.api.zmachine import RunPolicy
from zos.kinds.kind import Here, Report
from zos.kinds.zmachine import diskerrors, flist
from zos.kinds.zmachine.image import known_as
from zos.kinds.zmachine.part import ImagePull, MachineOnNode, MachineState
from zos.plan.facts import DiskFact, DomainFact, Facts, ImageFact, ImageProblem, ShutFact, Written
from zos.plan.items import ContainerBoot, Disk, DiskBoot, Domain, Firewall, Flist, Image, System
from zos.plan.lowered import Lowered, Problem
from zos.plan.outcome import Outcome
from zos.plan.pulling import reason_of
from zos.plan.restart import outdated
from zos.world.resolution import Verdict, ready, waiting


def report(here: Here[MachineOnNode], lowered: Lowered, outcome: Outcome) -> Report[MachineState]:
    """Raises Unknown where nobody could look at the node's guests."""
    machine, facts = here.part, here.facts
    fact = facts.get(DomainFact, names.domain(here.owner.uid))
    asked = known_as(here)
    image = facts.get(ImageFact, asked.name) if ImageFact not in facts.unknown else None
    trouble = flist.trouble(machine.image, lowered, facts)
    verdict = _verdict(here, asked, lowered, outcome, fact, trouble or flist.unserved(lowered, facts))
    if fact is not None and fact.running and not (lowered.whole or lowered.certain) and not verdict.ready:
        verdict = replace(verdict, message=f"{verdict.message}; the machine runs on with what it was started with")
    return Report(
        verdict,
        _state(machine, image, fact, facts, lowered, outcome).model_copy(update={"image_pull": _image_pull(here.since, image)}),
        (
            _image_ready(asked.name, image, facts, lowered, trouble),
            *_conditions(here.owner, fact, facts, lowered),
            *_virtual(machine, fact, facts, lowered),
            *diskerrors.conditions(machine, fact),
        ),
    )


def _verdict(
    here: Here[MachineOnNode],
    image: Image,
    lowered: Lowered,
    outcome: Outcome,
    fact: DomainFact | None,
    unserved: Problem | None,
) -> Verdict:
    """``unserved``: why its image, an flist, is not to be had just now."""
    return (
        _hindered(here.facts, image, lowered, outcome, fact, unserved)
        or _under_way(here.part, image, lowered, outcome)
        or _as_it_runs(here.part, fact)
    )


def _hindered(
    facts: Facts, image: Image, lowered: Lowered, outcome: Outcome, fact: DomainFact | None, unserved: Problem | None
) -> Verdict | None:
    """What has to change before anything goes on, or is as was asked for."""
    problem = lowered.problem
    suspended = problem is not None and problem.reason is Reason.SUSPENDED
    if not lowered.whole and not suspended and unserved is not None and unserved.reason is Reason.IMAGE_UNAVAILABLE:
        return waiting(unserved.reason, unserved.message)
    if problem is not None and not lowered.whole and not suspended:
        return waiting(problem.reason, problem.message)
    if image.key in outcome.failed:
        return waiting(reason_of(facts.get(ImageProblem, image.name)), outcome.failed[image.key])
    for item in lowered.items:
        if item.key in outcome.failed and isinstance(item, Flist):
            return waiting(Reason.IMAGE_INVALID, outcome.failed[item.key])
        if item.key in outcome.failed:
            return waiting(Reason.FAILED, f"{item.key}: {outcome.failed[item.key]}")
    if problem is not None:
        if suspended and fact is not None and fact.running:
            return waiting(Reason.PROGRESSING, "the guest is being stopped")
        return Verdict(suspended or problem.reason is Reason.COMPLETED, problem.reason, problem.message)
    if unserved is not None and fact is not None and fact.running:
        return waiting(unserved.reason, unserved.message)
    return None


def _under_way(machine: MachineOnNode, image: Image, lowered: Lowered, outcome: Outcome) -> Verdict | None:
    """What is still to be done for it on the node."""
    if not lowered.whole and image.key not in outcome.pending and flist.service_of(lowered) is not None:
        looked = next((outcome.pending[item.key] for item in lowered.items if item.key in outcome.pending), "")
        return waiting(Reason.IMAGE_PULLING, looked or "its flist is being mounted")
    if image.key in outcome.pending or not lowered.whole:
        return waiting(Reason.IMAGE_PULLING, outcome.pending.get(image.key, f"fetching {machine.image}"))
    for item in lowered.items:
        if isinstance(item, System) and item.key in outcome.pending:
            return waiting(Reason.PROGRESSING, outcome.pending[item.key] or "the image is being written to the boot disk")
        if item.key in outcome.blocked:
            return waiting(Reason.PROGRESSING, f"{item.key} waits for {outcome.blocked[item.key]}")
        if item.key in outcome.pending:
            words = outcome.pending[item.key]
            return waiting(Reason.PROGRESSING, words if isinstance(item, Domain) else f"{item.key}: {words}")
    return None


def _as_it_runs(machine: MachineOnNode, fact: DomainFact | None) -> Verdict:
    if fact is None or not fact.running:
        return waiting(Reason.PROGRESSING, "the guest is starting")
    if (full := diskerrors.paused(machine, fact)) is not None:
        return full
    if not fact.booted:
        return waiting(Reason.PROGRESSING, "the guest boots")
    return ready("the guest runs")


def _state(
    machine: MachineOnNode, image: ImageFact | None, fact: DomainFact | None, facts: Facts, lowered: Lowered, outcome: Outcome
) -> MachineState:
    """What runs counts, not what is wanted; before there is anything, what it will run with."""
    booted_from = _written(lowered, facts)
    wanted = booted_from.image if booted_from is not None else image.digest if image is not None else ""
    ran = fact.image if fact is not None else ""
    digest = ran or wanted if fact is not None and fact.running else wanted or ran
    root = _root(lowered, outcome)
    mode = _mode(image, fact, lowered) if digest or booted_from is not None else None
    kernel = _kernel(fact, lowered) or None
    state = MachineState(mode=mode, kernel=kernel, image_digest=digest or None, root_size=root and root.size)
    if fact is None:
        return state
    started = None
    if fact.started_at is not None:
        started = datetime.fromtimestamp(int(fact.started_at), UTC).isoformat().replace("+00:00", "Z")
    return state.model_copy(
        update={
            "state": _word(machine, fact),
            "restarts": fact.restarts,
            "started_at": started,
            "started_because": _plain(fact.because) or None,
            "console": fact.console,
            "accelerator": fact.accelerator,
            "runs": _run(machine, fact.runs) if fact.running and fact.runs is not None else None,
        }
    )


def _mode(image: ImageFact | None, fact: DomainFact | None, lowered: Lowered) -> Literal["container", "vm"]:
    if fact is not None and fact.running and fact.runs is not None:
        return fact.runs.boot.MODE
    wanted = next((item for item in lowered.items if isinstance(item, Domain)), None)
    if wanted is not None:
        return wanted.boot.MODE
    return DiskBoot.MODE if image is not None and image.disk is not None else ContainerBoot.MODE


def _kernel(fact: DomainFact | None, lowered: Lowered) -> str:
    """Version of the image's own kernel; empty: it runs the node's, or its disk's."""
    wanted = next((item for item in lowered.items if isinstance(item, Domain)), None)
    run = fact.runs if fact is not None and fact.running else wanted
    return run.boot.kernel if run is not None and isinstance(run.boot, ContainerBoot) else ""


def _root(lowered: Lowered, outcome: Outcome) -> Disk | None:
    """The root as it is on the node; None where that is not known."""
    root = next((item for item in lowered.items if isinstance(item, Disk)), None)
    if root is None or any(root.key in keys for keys in (outcome.failed, outcome.pending, outcome.blocked)):
        return None
    return root


def _run(machine: MachineOnNode, runs: Domain) -> Run:
    """What a guest runs with. One that does not tell of its interfaces has those that are asked for (see lower)."""
    known: dict[str, object] = {
        "cpu": runs.cpu,
        "memory": runs.memory,
        "disks": tuple(disk.disk.removeprefix("mount-") for disk in runs.all_disks if disk.disk.startswith("mount-")),
    }
    if all(nic.told for nic in runs.nics):
        away = next((nic for nic in runs.nics if nic.interface), None)
        known["nics"] = tuple(RunningNic(network_uid=nic.network, ip=nic.ipv4) for nic in runs.nics if nic.network)
        known["public_nic"] = away and RunningPublicNic(mac=away.mac, ipv4=away.ipv4 or None, ipv6=away.ipv6 or None)
    return machine.run.model_copy(update=known)


def _image_pull(since: str, image: ImageFact | None) -> ImagePull | None:
    """How the image came, if it came since this machine is asked for."""
    if image is None or image.pulled is None:
        return None
    if since and image.pulled.at < datetime.fromisoformat(since).timestamp():
        return None
    return ImagePull(seconds=ceil(image.pulled.seconds), size=image.pulled.size)


def _plain(words: str) -> str:
    """A guest may have had a hand in them."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in words[:500])


def _word(machine: MachineOnNode, fact: DomainFact) -> str:
    if fact.running:
        return "Running"
    if fact.ended == "exit" and fact.exit_code == 0 and machine.run_policy in (RunPolicy.ONCE, RunPolicy.ON_FAILURE):
        return "Completed"
    if fact.ended in ("exit", "crash"):
        return "Crashed"
    return "Stopped" if fact.ended == "stopped" else "Pending"


def _written(lowered: Lowered, facts: Facts) -> Written | None:
    """What the boot disk of a virtual machine was written from; None: it is no such machine, or that is yet to be done."""
    for item in lowered.items:
        if isinstance(item, Domain) and isinstance(item.boot, DiskBoot):
            fact = facts.get(DiskFact, item.boot.root.disk) if DiskFact not in facts.unknown else None
            return fact.written if fact is not None else None
    return None


def _virtual(machine: MachineOnNode, fact: DomainFact | None, facts: Facts, lowered: Lowered) -> Iterator[Condition]:
    """What is to be said of virtual machines only."""
    if fact is not None and fact.running and fact.runs is not None and not fact.runs.boot.TELLS:
        yield _guest_ready(fact)
    if (found := _written(lowered, facts)) is not None and found.ref not in ("", machine.image):
        message = (
            f"its boot disk was written from {found.ref}, and keeps what it holds: to begin with {machine.image}, give the "
            "machine an empty disk to boot from"
        )
        yield Condition(type="ImageChanged", status="True", reason=Reason.IMAGE_CHANGED, message=message)


def _guest_ready(fact: DomainFact) -> Condition:
    match fact.told:
        case "ready":
            return Condition(type="GuestReady", status="True", reason=Reason.SUCCEEDED, message="cloud-init is done")
        case "unready":
            message = "cloud-init ended with errors: see /var/log/cloud-init.log in the guest"
            return Condition(type="GuestReady", status="False", reason=Reason.FAILED, message=message)
        case "booting":
            return Condition(type="GuestReady", status="False", reason=Reason.PROGRESSING, message="cloud-init is at work")
    message = "the guest has not said anything yet: it boots, or has no cloud-init"
    return Condition(type="GuestReady", status="Unknown", reason=Reason.PROGRESSING, message=message)


def _image_ready(name: str, image: ImageFact | None, facts: Facts, lowered: Lowered, trouble: Problem | None) -> Condition:
    if trouble is not None:
        return Condition(type="ImageReady", status="False", reason=trouble.reason, message=trouble.message)
    if (written := _written(lowered, facts)) is not None:
        message = written.image or "it boots from what is on its disk, as its user says; nobody knows which image that was"
        return Condition(type="ImageReady", status="True", reason=Reason.SUCCEEDED, message=message)
    problem = lowered.problem
    wrong = problem is not None and problem.reason in (Reason.IMAGE_INVALID, Reason.IMAGE_UNAVAILABLE)
    if image is not None and not wrong:
        return Condition(type="ImageReady", status="True", reason=Reason.SUCCEEDED, message=image.digest)
    if (unseen := facts.unknown.get(ImageFact)) is not None:
        return Condition(type="ImageReady", status="Unknown", reason=Reason.PROGRESSING, message=unseen)
    if problem is not None and wrong:
        return Condition(type="ImageReady", status="False", reason=problem.reason, message=problem.message)
    if (known := facts.get(ImageProblem, name)) is not None:
        return Condition(type="ImageReady", status="False", reason=reason_of(known), message=known.why)
    return Condition(type="ImageReady", status="False", reason=Reason.IMAGE_PULLING)


def _conditions(owner: Owner, fact: DomainFact | None, facts: Facts, lowered: Lowered) -> tuple[Condition, ...]:
    running = fact is not None and fact.running
    booted = fact is not None and fact.booted
    found = [
        Condition(
            type="Running",
            status="True" if booted else "False",
            reason=Reason.SUCCEEDED if booted else Reason.PROGRESSING,
        ),
    ]
    if fact is not None and fact.accelerator == "tcg":
        found.append(
            Condition(
                type="SoftwareEmulation",
                status="True",
                reason=Reason.SOFTWARE_EMULATION,
                message="this node has no usable KVM: the guest runs, slowly",
            )
        )
    if fact is not None and running and (why := _to_restart(owner, fact, lowered)):
        found.append(Condition(type="RestartRequired", status="True", reason=Reason.RESTART_REQUIRED, message=why))
    guards = [item.name for item in lowered.items if isinstance(item, Firewall)]
    if shut := "; ".join(seen.by for name in guards if (seen := facts.get(ShutFact, name)) is not None):
        found.append(
            Condition(type="PublicAddressBlocked", status="True", reason=Reason.NODE_FIREWALL, message=_way_through(shut))
        )
    return tuple(found)


def _way_through(shut: str) -> str:
    return (
        f"the node's firewall lets nothing pass between machine and public segment (br_netfilter has it asked): {shut}; let "
        "bridged packets pass (iptables -I FORWARD -m physdev --physdev-is-bridged -j ACCEPT, ip6tables too), or have it asked "
        "for none of them (sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0)"
    )


def _to_restart(owner: Owner, fact: DomainFact, lowered: Lowered) -> str:
    """What a running guest needs a restart for, and how; empty: nothing that is known."""
    if fact.unreadable:
        return "what it was started with can't be read any more: set runPolicy to Halted and back to restart it"
    wanted = next((item for item in lowered.items if isinstance(item, Domain)), None)
    fields = outdated(fact.runs, wanted) if fact.runs is not None and wanted is not None else ()
    if not fields:
        return ""
    return (
        f"{', '.join(fields)} changed: kubectl annotate zm {owner.name} -n {owner.namespace} "
        "--overwrite zos.grid.tf/restartedAt=$(date -Is) restarts it"
    )
