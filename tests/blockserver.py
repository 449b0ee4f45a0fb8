"""A store of an flist's blocks, served over HTTP. ``blockserver.py DIRECTORY ADDRESS PORT SPEED SENT CERTIFICATE KEY``, over
HTTPS, keeps how many bytes it has sent in the file SENT, and lies as long as ``SENT.lies`` is there."""

from __future__ import annotations

import ctypes
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_PIECE = 16 << 10


class Store(ThreadingHTTPServer):
    """Gives files of a directory, at ``speed`` bytes a second in all (0: as they come); counts its answers, and the bytes that
    it has ``sent``. ``lies``: in how many of its next answers a byte is another."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, place: Path, address: tuple[str, int] = ("127.0.0.1", 0), speed: int = 0) -> None:
        self.place, self.speed = place, speed
        self.sent, self.answers, self.lies = 0, 0, 0
        self._line = threading.Lock()
        super().__init__(address, _Answer)

    def secure(self, certificate: str, key: str) -> None:
        """From now on it speaks TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def begin(self) -> Store:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def end(self) -> None:
        self.shutdown()
        self.server_close()

    def lying(self) -> bool:
        lies = self.lies > 0
        self.lies -= lies
        return lies

    def counted(self) -> None:
        """More was sent."""

    def send(self, put: Callable[[bytes], object], body: bytes) -> None:
        self.answers += 1
        for at in range(0, len(body), _PIECE):
            piece = body[at : at + _PIECE]
            with self._line:  # one wire for all
                if self.speed:
                    time.sleep(len(piece) / self.speed)
                self.sent += len(piece)
                self.counted()
            put(piece)


class _Answer(BaseHTTPRequestHandler):
    server: Store

    def do_GET(self) -> None:
        try:
            body = (self.server.place / self.path.strip("/")).read_bytes()
        except OSError:
            self.send_error(404)
            return
        if self.server.lying():
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.server.send(self.wfile.write, body)

    def log_message(self, *_: object) -> None:
        pass


class _Watched(Store):
    """Tells by a file what it has sent, and is told by another to lie."""

    def __init__(self, count: Path, place: Path, address: tuple[str, int], speed: int) -> None:
        self._count = count
        super().__init__(place, address, speed)

    def lying(self) -> bool:
        return self._count.with_name(f"{self._count.name}.lies").exists()

    def counted(self) -> None:
        self._count.write_text(str(self.sent))


if __name__ == "__main__":
    directory, address, port, speed, count, certificate, key = sys.argv[1:]
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # with nsenter(1), which started this one
    watched = _Watched(Path(count), Path(directory), (address, int(port)), int(speed))
    watched.secure(certificate, key)
    watched.serve_forever()
