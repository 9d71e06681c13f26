"""An upstream's reply without an upstream, for what stands between the two."""

from __future__ import annotations

from collections.abc import Iterator

from mistral_filter.proxy.budget import Held

JSON = ("Content-Type", "application/json")


class ScriptedReply:
    """A reply that is a list of pieces; an empty piece is a heartbeat. ``taken`` counts those that were asked for."""

    reason = "OK"

    def __init__(self, *pieces: bytes, status: int = 200, headers: tuple[tuple[str, str], ...] = (JSON,)) -> None:
        self.status = status
        self.headers = list(headers)
        self.length: int | None = sum(map(len, pieces))
        self.closed, self.taken = False, 0
        self._pieces = pieces

    def pieces(self, heartbeat: float | None = None) -> Iterator[bytes]:
        for piece in self._pieces:
            self.taken += 1
            yield piece

    def whole(self, limit: int, held: Held | None = None) -> tuple[bytes, Iterator[bytes] | None]:
        beginning, rest = b"", (piece for piece in self.pieces() if piece)
        for piece in rest:
            beginning += piece
            if len(beginning) > limit or (held is not None and not held.takes(len(piece))):
                return beginning, rest
        return beginning, None

    def close(self) -> None:
        self.closed = True
