"""What becomes of a machine whose program ends, and of one that is asked to stop."""

from __future__ import annotations

from guests import Guests
from harness import until

STAY = "; while :; do sleep 1; done"


def end_and_begin_again(guests: Guests) -> None:
    """Machines once, good and always."""
    guests.apply("once", "echo ran; exit 3", runPolicy="Once")
    guests.apply("good", "echo ran; exit 0", runPolicy="OnFailure")
    guests.apply("always", "echo up; sleep 4")
    guests.says("once", "exit code 3", seconds=180)
    until(lambda: guests.status("good").get("state") == "Completed", 180)
    until(lambda: guests.status("always").get("restarts", 0) >= 2, 180)
    assert guests.console("once").count("ran") == 1
    assert guests.console("good").count("ran") == 1


def stop_and_start(guests: Guests) -> None:
    """Machine always."""
    guests.apply("always", "trap 'echo asked to stop; exit' TERM; echo up" + STAY, runPolicy="Halted")
    until(lambda: guests.status("always").get("state") == "Stopped", 40)
    until(lambda: guests.grid.condition("zmachine", "always", guests.namespace)["reason"] == "Suspended", 10)
    guests.ready("always", seconds=5)  # as asked
    guests.apply("always", "trap 'echo asked to stop; exit' TERM; echo up again" + STAY)
    guests.ready("always")
    guests.prints("always", "^up again$")
    guests.apply("always", "trap 'echo asked to stop; exit' TERM; echo up again" + STAY, runPolicy="Halted")
    guests.prints("always", "^asked to stop$")
