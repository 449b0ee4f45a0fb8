"""``blockserver.py DIRECTORY ADDRESS PORT SPEED SENT``: serves a store of blocks over HTTP, at SPEED bytes a second in all, and
keeps how many it has sent in the file SENT. As long as ``SENT.lies`` is there it flips a byte in each answer."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_PIECE = 16 << 10


class Store(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, place: Path, address: tuple[str, int], speed: int, count: Path) -> None:
        self.place, self.speed, self.count, self.sent = place, speed, count, 0
        self._line = threading.Lock()
        super().__init__(address, _Answer)

    def send(self, put: object, body: bytes) -> None:
        for at in range(0, len(body), _PIECE):
            with self._line:  # one wire for all
                time.sleep(_PIECE / self.speed)
                self.sent += len(body[at : at + _PIECE])
                self.count.write_text(str(self.sent))
            put(body[at : at + _PIECE])  # type: ignore[operator]


class _Answer(BaseHTTPRequestHandler):
    server: Store

    def do_GET(self) -> None:
        try:
            body = (self.server.place / self.path.strip("/")).read_bytes()
        except OSError:
            self.send_error(404)
            return
        if self.server.count.with_name(f"{self.server.count.name}.lies").exists():
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.server.send(self.wfile.write, body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    directory, address, port, speed, count = sys.argv[1:]
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # with nsenter(1), which started this one
    Store(Path(directory), (address, int(port)), int(speed), Path(count)).serve_forever()
