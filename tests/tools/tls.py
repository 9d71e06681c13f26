"""TLS for the tests: a certificate authority, upstreams of one TLS version, and a relay that delays or cuts records."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from upstream import Exchange, Script, ScriptedUpstream, chain, head_bytes

_CONFIG = """
[ca]
default_ca = authority
[authority]
database = index.txt
serial = serial
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
policy = names
unique_subject = no
copy_extensions = copy
x509_extensions = leaf
[names]
commonName = supplied
[leaf]
basicConstraints = critical, CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[req]
distinguished_name = empty
[empty]
"""
_EC = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split()

LOCAL = "DNS:localhost,IP:127.0.0.1"
EXPIRED = ("20200101000000Z", "20200201000000Z")
"""A validity in the past: first and last second, as ``openssl ca`` takes them."""


class Authority:
    """A certificate authority in *directory*, made with the openssl command; skips the test without that command.

    The certificates are strict enough for ``ssl.VERIFY_X509_STRICT``, which Python 3.13 sets by default.
    """

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("the openssl command is missing")
        self._directory = directory
        self.bundle = directory / "ca.pem"
        """The authority's own certificate: what a client that trusts it needs."""
        (directory / "openssl.cnf").write_text(_CONFIG)
        (directory / "index.txt").touch()
        (directory / "serial").write_text("01\n")
        self._openssl("req", "-x509", *_EC, "-days", "2", "-subj", "/CN=Test CA", "-extensions", "root", name="ca")

    def issue(self, name: str, names: str = LOCAL, validity: tuple[str, str] | None = None) -> tuple[Path, Path]:
        """A certificate for the subject alternative *names*, valid for two days or as *validity* says, and its key.

        *name* is what its files are called.
        """
        self._openssl("req", "-new", *_EC, "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}", name=name)
        dates = ["-startdate", validity[0], "-enddate", validity[1]] if validity else ["-days", "2"]
        self._openssl("ca", "-batch", "-notext", *dates, "-in", f"{name}.pem", name=name, key=False)
        return self._directory / f"{name}.pem", self._directory / f"{name}.key"

    def _openssl(self, command: str, *arguments: str, name: str, key: bool = True) -> None:
        files = ["-keyout", f"{name}.key"] if key else []
        line = ["openssl", command, "-config", "openssl.cnf", *arguments, *files, "-out", f"{name}.pem"]
        subprocess.run(line, cwd=self._directory, check=True, capture_output=True)


class TLSUpstream(ScriptedUpstream):
    """A scripted upstream behind *certificate* (and its key) that speaks only this TLS *version*, if one is given.

    It selects HTTP/2 if a client offers it (ALPN), as Mistral's API does, and requires a client certificate if *mutual*.
    *place* is the address and the port.
    """

    def __init__(
        self, certificate: tuple[Path, Path], version: ssl.TLSVersion | None = None, mutual: bool = False, **place: Any
    ) -> None:
        super().__init__(certificate, **place)
        self.server_names: list[str | None] = []
        """What the ClientHellos asked for (SNI), in order."""
        context = self._context
        assert context is not None
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if mutual:
            context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.sni_callback = lambda _sock, name, _context: self.server_names.append(name)

    def secured(self, connection: int = 1) -> ssl.SSLSocket:
        """The socket of an open connection, to be asked what was negotiated."""
        with self._changed:
            sock = next(each.sock for each in self._open if each.number == connection)
        assert isinstance(sock, ssl.SSLSocket)
        return sock


def cut(exchange: Exchange) -> None:
    """Close the connection with FIN, but without the close_notify of TLS (RFC 8446, 6.1), like a broken line."""
    exchange._connection.abort()


def closed(body: bytes, kind: str = "application/json", end: Script = Exchange.close) -> Script:
    """A 200 whose body ends with the connection, and then *end*."""
    head = head_bytes(200, [("Content-Type", kind), ("Connection", "close")])
    return chain(lambda exchange: exchange.send(head + body), end)


class Relay:
    """Passes TCP connections on to *port* of this machine; what comes back can be delayed and cut, as a context manager.

    *size* bytes and then *gap* seconds of rest are one TCP segment of what comes back. A TLS record that is longer than *cut*
    bytes is passed on by half, and nothing after it; with *rest* it is finished after so many seconds. A record that is
    longer than *garble* bytes gets another last byte. With *tunnel* it is an HTTP proxy that accepts CONNECT and connects to
    *port*, whatever the host; it answers *interim* first.
    """

    def __init__(
        self,
        port: int,
        *,
        size: int = 65536,
        gap: float = 0,
        cut: int | None = None,
        rest: float | None = None,
        garble: int | None = None,
        tunnel: bool = False,
        interim: bytes = b"",
    ) -> None:
        self._target, self._interim = port, interim
        self.heads: list[bytes] = []
        """What the clients of a tunnel sent before it was open."""
        self._size, self._gap, self._cut, self._rest, self._garble, self._tunnel = size, gap, cut, rest, garble, tunnel
        self._stopped = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Relay:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="relay")
        self._acceptor.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                upstream = socket.socket()
                self._sockets += [client, upstream]
                thread = threading.Thread(target=self._serve, args=(client, upstream), name="relay connection")
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket, upstream: socket.socket) -> None:
        try:
            if self._tunnel:
                self._open_tunnel(client)
            upstream.connect(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        forth = threading.Thread(target=self._forth, args=(client, upstream), name="relay connection")
        forth.start()
        with suppress(OSError):
            for piece in self._back(upstream):
                client.sendall(piece)
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        forth.join()

    def _forth(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                upstream.sendall(data)
        with suppress(OSError):
            upstream.shutdown(socket.SHUT_WR)

    def _open_tunnel(self, client: socket.socket) -> None:
        """Take a CONNECT; what follows belongs to the tunnel, so the head is read byte by byte."""
        head = b""
        while not head.endswith(b"\r\n\r\n") and (byte := client.recv(1)):
            head += byte
        self.heads.append(head)
        client.sendall(self._interim + b"HTTP/1.1 200 Connection established\r\n\r\n")

    def _back(self, source: socket.socket) -> Iterator[bytes]:
        """What comes back, as it is to be sent."""
        with source.makefile("rb") as stream:
            for record in _records(stream):
                if self._garble is not None and len(record) > self._garble:
                    record = record[:-1] + bytes([record[-1] ^ 1])
                if self._cut is not None and len(record) > self._cut:
                    half = len(record) // 2
                    yield record[:half]
                    if self._rest is None:
                        self._stopped.wait()
                        return
                    self._stopped.wait(self._rest)
                    record = record[half:]
                for start in range(0, len(record), self._size):
                    yield record[start : start + self._size]
                    if self._gap:
                        self._stopped.wait(self._gap)


def _records(stream: BinaryIO) -> Iterator[bytes]:
    """The TLS records of a connection: five bytes of type, version and length (RFC 8446, 5.1), then so many bytes."""
    while header := stream.read(5):
        yield header + stream.read(int.from_bytes(header[3:5], "big"))
