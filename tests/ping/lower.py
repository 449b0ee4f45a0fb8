"""A Ping on its node: a volume, a namespace with its address, and the program."""

from __future__ import annotations

from pathlib import Path

from ping.part import LIMITS, WORD, PingOnNode, PingState
from zos.api import names
from zos.kinds.kind import Here, Report
from zos.plan.attachment import attached
from zos.plan.facts import ServiceFact, VolumeFact
from zos.plan.items import MetricsEndpoint, Readiness, Service, ServiceFile, Volume
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.plan.standing import standing
from zos.world.resolution import ready, waiting

PORT = 9007
_PROGRAM = (Path(__file__).parent / "program.py").read_text()


def lower(here: Here[PingOnNode]) -> Lowered:
    part, uid, owner = here.part, here.owner.uid, here.name
    home = attached(uid, owner, part.nic, tcp=(PORT,))
    name = names.kept("ping", uid)
    volume = Volume(
        owner=owner, name=name, size=part.size, user=name, must_exist=part.holds_data, adopt=part.adopt or "", origin=here.owner
    )
    program = Service(
        owner=owner,
        needs=(*(item.key for item in home), volume.key),
        name=f"ping-{names.ident(uid)}",
        argv=("/usr/bin/python3", "-I", "{files}/ping.py", part.nic.ip, "{volume}", "{files}"),
        files=(ServiceFile(path="ping.py", content=_PROGRAM), ServiceFile(path="word", content=here.secret(WORD))),
        netns=names.resident(uid),
        user=volume.user,
        volume=volume.name,
        limits=LIMITS,
        change="reload",
        ready=Readiness(by="notification"),
        metrics=MetricsEndpoint(port=9090),
    )
    return Lowered((*home, volume, program))


def report(here: Here[PingOnNode], lowered: Lowered, outcome: Outcome) -> Report[PingState]:
    """Raises Unknown where nobody could look."""
    if lowered.problem is not None:
        return Report(waiting(lowered.problem.reason, lowered.problem.message))
    volume = next(item for item in lowered.items if isinstance(item, Volume))
    kept = here.facts.get(VolumeFact, volume.name)
    state = PingState(used=kept.used if kept is not None else None)
    problem = outcome.problem(lowered.items)
    program = next(item for item in lowered.items if isinstance(item, Service))
    stands = standing(program, here.facts.get(ServiceFact, program.name), here.facts.now)
    problem = problem or stands.problem
    verdict = ready("it answers") if problem is None else waiting(problem.reason, problem.message)
    return Report(verdict, state, wake_at=stands.wake_at)
