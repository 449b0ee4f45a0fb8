"""Subprocesses: the one place that runs them. Bounded in time, dead with the agent, in a network namespace if asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from zos.drivers import DriverError

#: Where named network namespaces live (iproute2, pyroute2).
NETNS = "/run/netns"

#: Error texts end up in conditions that people read.
_ERROR_LIMIT = 600


class ProcessError(DriverError):
    """A program failed, could not be started or took too long. ``code`` is its exit code (negative: the signal that ended
    it), None where it has none."""

    def __init__(self, message: str, code: int | None = None, stdout: str = "", stderr: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str


async def run(
    *argv: str,
    input: str | bytes | None = None,
    fds: Sequence[int] = (),
    netns: str = "",
    timeout: float = 30.0,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> Result:
    """Runs a program to its end and gives its output as text.

    ``fds`` are descriptors that it gets, by the same numbers. ``netns`` names a network namespace (empty: the agent's own);
    ``env`` is added to the agent's environment; ``timeout`` in seconds. Raises ProcessError when it can't be started, takes
    longer, or (``check``) exits with other than 0.
    On a timeout or a cancellation the program and its children are killed.
    """
    process = await _start(argv, netns, env, stdin=asyncio.subprocess.PIPE if input is not None else None, fds=fds)
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(input.encode() if isinstance(input, str) else input)
    except TimeoutError:
        raise ProcessError(f"{argv[0]}: not done after {timeout:g} s: {shlex.join(argv)}") from None
    finally:
        await _end(process)
    code = process.returncode if process.returncode is not None else -1
    result = Result(code, out.decode(errors="replace"), err.decode(errors="replace"))
    if check and code != 0:
        raise _failure(argv, result)
    return result


async def lines(
    *argv: str,
    stdin: int | None = None,
    netns: str = "",
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncGenerator[str, None]:
    """Yields what a program writes (stdout and stderr, line by line; a carriage return ends a line too) while it runs.

    For progress of long work and for monitors (``timeout`` None: as long as it likes). ``stdin`` is a descriptor to read
    from. Ends with the program, raises ProcessError where ``run`` would. Closing the generator kills the program: wrap it
    in ``contextlib.aclosing``.
    """
    process = await _start(argv, netns, env, stdin=stdin, merge=True)
    assert process.stdout is not None
    tail: list[str] = []
    rest = ""
    try:
        async with asyncio.timeout(timeout):
            while chunk := await process.stdout.read(65536):
                *complete, rest = (rest + chunk.decode(errors="replace")).replace("\r", "\n").split("\n")
                for line in complete:
                    if line:
                        tail = [*tail[-19:], line]
                        yield line
            await process.wait()
    except TimeoutError:
        raise ProcessError(f"{argv[0]}: not done after {timeout:g} s: {shlex.join(argv)}") from None
    finally:
        await _end(process)
    if rest:
        tail.append(rest)
        yield rest
    if process.returncode:
        raise _failure(argv, Result(process.returncode, "", "\n".join(tail)))


async def _start(
    argv: Sequence[str],
    netns: str,
    env: Mapping[str, str] | None,
    *,
    stdin: int | None,
    merge: bool = False,
    fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    # A killed agent must not leave half a pull running beside the next agent's pull.
    command = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
    if netns:
        command = ["nsenter", f"--net={NETNS}/{netns}", "--", *command]
        if not os.path.exists(f"{NETNS}/{netns}"):  # noqa: ASYNC240 - a stat in a tmpfs
            raise ProcessError(f"{argv[0]}: no network namespace {netns}")
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if merge else asyncio.subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            start_new_session=True,
            pass_fds=fds,
        )
    except OSError as error:
        raise ProcessError(f"{argv[0]}: {error.strerror or error}") from error


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kills what still runs, children included, and reaps it even when we are being cancelled."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


def _failure(argv: Sequence[str], result: Result) -> ProcessError:
    said = (result.stderr.strip() or result.stdout.strip())[-_ERROR_LIMIT:]
    how = f"exit code {result.code}" if result.code > 0 else f"ended by signal {-result.code}"
    return ProcessError(f"{argv[0]}: {said or how}", result.code, result.stdout, result.stderr)
