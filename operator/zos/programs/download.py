"""``python - URL SIZE < download.py``: one file by https, of SIZE bytes at most, into ``file`` where it runs. It goes on where
one before it was broken off, if the server still has the same. Progress (bytes that are there, and that it will be; 0: not
known) and, at the end, what went wrong are lines of its output.

Handed over on standard input, since it runs as a user who may read nothing of ours. Sent on only to https; no proxies, no
credentials, no cookies. Where its packets may go is for the kernel to say.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from typing import IO
from urllib.parse import urljoin, urlsplit

#: Redirects in a row; seconds to answer, and for a mebibyte at the least.
_HOPS = 10
_ANSWER = 30.0
_SLOWEST = 120.0
_PIECE = 1 << 18
#: Seconds between two words of how far it is.
_TELL = 0.25
_HEADERS = {"User-Agent": "zos", "Accept": "*/*", "Accept-Encoding": "identity"}
_FILE, _STATE = "file", "state"


class Failed(Exception):
    """What a person needs to know."""


class _Connection(http.client.HTTPSConnection):
    """Tries each address of the host and says which it was that failed."""

    def connect(self) -> None:
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError:
            raise Failed(f"lookup {self.host}: no such host") from None
        problem = f"{self.host} has no address"
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(_ANSWER)
            try:
                sock.connect(address)
            except OSError as error:
                sock.close()
                host, port = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
                problem = f"dial tcp [{host}]:{port}: {error.strerror or 'i/o timeout'}"
                continue
            self.sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self.host)
            return
        raise Failed(problem)


def _get(url: str, more: dict[str, str]) -> tuple[http.client.HTTPResponse, _Connection]:
    for _ in range(_HOPS):
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise Failed(f"the server sends on to {url[:200]}, which is not https")
        connection = _Connection(parts.hostname, parts.port or 443, timeout=_ANSWER)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers=_HEADERS | more)
        response = connection.getresponse()
        if response.status not in (301, 302, 303, 307, 308):
            return response, connection
        url = urljoin(url, response.headers.get("Location", ""))
        connection.close()
    raise Failed(f"the server sends on more than {_HOPS} times")


@dataclass(frozen=True)
class Begun:
    """What is there already: so many bytes of ``whole``, of what the server calls by ``validator`` (a header's value)."""

    got: int = 0
    whole: int = 0
    validator: str = ""


def begun() -> Begun:
    try:
        with open(_STATE) as file:
            told = json.load(file)
        found = Begun(os.stat(_FILE).st_size, int(told["whole"]), str(told["validator"]))
        return found if found.validator and 0 < found.got <= found.whole else Begun()
    except (OSError, ValueError, KeyError, TypeError):
        return Begun()


def _validator(headers: http.client.HTTPMessage) -> str:
    """What a server may be asked by whether it is still the same (RFC 9110, 13.1.5): no weak one."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def download(url: str, size: int) -> None:
    had = begun()
    # Of a whole one the last byte is asked for, to hear whether it is still the same.
    start = min(had.got, had.whole - 1) if had.got else 0
    ranges = {"Range": f"bytes={start}-", "If-Range": had.validator} if start else {}
    response, connection = _get(url, ranges)
    if response.status == 416:
        connection.close()
        start = 0
        response, connection = _get(url, {})
    with contextlib.closing(connection):
        if response.status == 206 and start:
            if response.headers.get("Content-Range", "") != f"bytes {start}-{had.whole - 1}/{had.whole}":
                os.unlink(_STATE)
                raise Failed("the server ended after nothing: it sends another part than was asked for")
            whole = had.whole
        elif response.status == 200:
            start, whole = 0, response.length or 0
        else:
            raise Failed(f"the server answers {response.status} {response.reason[:100]}")
        if whole > size:
            raise Failed(f"too big: {whole}")
        with open(_FILE, "r+b" if start else "wb") as file:
            if not start:
                _remember(whole, _validator(response.headers))
            file.seek(start)
            _copy(response, file, start, whole, size)


def _remember(whole: int, validator: str) -> None:
    with open(_STATE, "w") as file:
        json.dump({"whole": whole, "validator": validator[:1000]}, file)


def _copy(response: http.client.HTTPResponse, file: IO[bytes], got: int, whole: int, size: int) -> None:
    mark, since, told = got, time.monotonic(), 0.0
    while True:
        if (now := time.monotonic()) - told >= _TELL:
            told = now
            print(got, whole, flush=True)
        if not (piece := response.read1(_PIECE)):
            break
        file.write(piece)
        got += len(piece)
        if got > size:
            raise Failed(f"too big: {got}")
        if got - mark >= 1 << 20:
            mark, since = got, time.monotonic()
        elif time.monotonic() - since > _SLOWEST:
            raise Failed("the server does not go on sending")
    if whole and got != whole:
        raise Failed(f"the server ended after {got} of {whole} bytes")
    print(got, whole or got, flush=True)


def main() -> None:
    _, url, size = sys.argv
    try:
        download(url, int(size))
    except Failed as error:
        sys.exit(str(error))
    except ssl.SSLCertVerificationError as error:
        sys.exit(f"x509: {error.verify_message}")
    except TimeoutError:
        sys.exit("the server does not go on sending")
    except http.client.IncompleteRead as error:
        sys.exit(f"the server ended after {len(error.partial)} bytes")
    except (OSError, http.client.HTTPException, ValueError) as error:
        sys.exit(f"it can't be downloaded: {error}")


if __name__ == "__main__":
    main()
