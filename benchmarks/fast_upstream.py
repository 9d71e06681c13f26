"""An upstream that costs little, for benchmarks of the proxy: scripted answers by model, on asyncio, with or without TLS."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import certifi

CONTENT = [{"index": 0, "message": {"role": "assistant", "content": "word " * 40}, "finish_reason": "stop"}]
ANSWER = json.dumps({"id": "0" * 32, "object": "chat.completion", "model": "m", "choices": CONTENT})
WHOLE = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}\r\n\r\n{ANSWER}".encode()
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DELTA = [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]
CHUNK = {"id": "0" * 32, "object": "chat.completion.chunk", "model": "m", "choices": DELTA}
EVENT = b"data: " + json.dumps(CHUNK, separators=(",", ":")).encode() + b"\n\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
MODEL = re.compile(rb'"model": ?"(late|stream)-(\d+)-?(\d*)"')


class Upstream(asyncio.Protocol):
    """One connection from the proxy: requests in turn, answered as their model asks."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.received = transport, bytearray()

    def data_received(self, data: bytes) -> None:
        self.received += data
        head = self.received.find(b"\r\n\r\n") + 4
        if head < 4:
            return
        length = LENGTH.search(self.received, 0, head)
        if len(self.received) < head + int(length[1] if length else 0):
            return
        asked = MODEL.search(self.received, head)
        self.received = bytearray()
        if asked is None:
            self.transport.write(WHOLE)
        elif asked[1] == b"late":
            asyncio.get_running_loop().call_later(int(asked[2]) / 1000, self.transport.write, WHOLE)
        else:
            self.transport.write(STREAM)
            self.event(int(asked[2]), int(asked[3]) / 1000)

    def event(self, left: int, gap: float) -> None:
        """The next of the *left* chunks, or the end."""
        data = EVENT if left else b"data: [DONE]\n\n"
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data) + b"0\r\n\r\n" * (not left))
        if left:
            asyncio.get_running_loop().call_later(gap, self.event, left - 1, gap)


def serve(listener: socket.socket, core: int, certificate: str | None) -> None:
    """Serve on *core* until the process is ended; with TLS if *certificate* names a file with one and its key."""
    os.sched_setaffinity(0, {core})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
    if context and certificate:
        context.load_cert_chain(certificate)

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(Upstream, sock=listener, ssl=context, backlog=1024)
        await server.serve_forever()

    with suppress(KeyboardInterrupt):
        asyncio.run(forever())


def certificate(directory: Path) -> tuple[str, str]:
    """A certificate for localhost with its key, and a bundle that trusts it beside all that certifi trusts."""
    pem, bundle = directory / "upstream.pem", directory / "bundle.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=upstream".split()
    command += ["-addext", "subjectAltName=DNS:localhost", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run([*command, "-keyout", pem, "-out", bundle], check=True, capture_output=True)
    pem.write_text(pem.read_text() + bundle.read_text())
    bundle.write_text(Path(certifi.where()).read_text("utf-8") + bundle.read_text())
    return str(pem), str(bundle)
