"""What starts a program so that it ends with the test that started it, whatever becomes of that: put before its command line.
(Linux means the thread that started it.)"""

from __future__ import annotations

KILLED = ("setpriv", "--pdeathsig", "KILL", "--")
#: For those that have something to take away themselves.
TOLD = ("setpriv", "--pdeathsig", "TERM", "--")
