"""``python - URL FILE SIZE < download.py``: one file by https, of SIZE bytes at most. Progress and, at the end, what went wrong
are lines of its output.

Handed over on standard input, since it runs as a user who may read nothing of ours. Sent on only to https; no proxies, no
credentials, no cookies. Where its packets may go is for the kernel to say.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import sys
import time
from urllib.parse import urljoin, urlsplit

#: Redirects in a row; seconds to answer, and for a mebibyte at the least.
_HOPS = 10
_ANSWER = 30.0
_SLOWEST = 120.0
_PIECE = 1 << 18


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


def _get(url: str) -> tuple[http.client.HTTPResponse, _Connection]:
    for _ in range(_HOPS):
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise Failed(f"the server sends on to {url[:200]}, which is not https")
        connection = _Connection(parts.hostname, parts.port or 443, timeout=_ANSWER)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "zos", "Accept": "*/*", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        if response.status not in (301, 302, 303, 307, 308):
            return response, connection
        url = urljoin(url, response.headers.get("Location", ""))
        connection.close()
    raise Failed(f"the server sends on more than {_HOPS} times")


def download(url: str, target: str, size: int) -> None:
    response, connection = _get(url)
    with contextlib.closing(connection):
        if response.status != 200:
            raise Failed(f"the server answers {response.status} {response.reason[:100]}")
        whole = response.length
        if whole is not None and whole > size:
            raise Failed(f"too big: {whole}")
        got, mark, since, told = 0, 0, time.monotonic(), ""
        with open(target, "wb") as file:
            while piece := response.read1(_PIECE):
                file.write(piece)
                got += len(piece)
                if got > size:
                    raise Failed(f"too big: {got}")
                if got - mark >= 1 << 20:
                    mark, since = got, time.monotonic()
                elif time.monotonic() - since > _SLOWEST:
                    raise Failed("the server does not go on sending")
                line = f"downloading, {100 * got // whole} %" if whole else f"downloading, {got >> 20} MiB"
                if line != told:
                    told = line
                    print(line, flush=True)
        if whole is not None and got != whole:
            raise Failed(f"the server ended after {got} of {whole} bytes")


def main() -> None:
    _, url, target, size = sys.argv
    try:
        download(url, target, int(size))
    except Failed as error:
        sys.exit(str(error))
    except ssl.SSLCertVerificationError as error:
        sys.exit(f"x509: {error.verify_message}")
    except TimeoutError:
        sys.exit("the server does not go on sending")
    except (OSError, http.client.HTTPException, ValueError) as error:
        sys.exit(f"it can't be downloaded: {error}")


if __name__ == "__main__":
    main()
