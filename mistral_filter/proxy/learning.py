"""Learning from a refusal: the request without the fields that it names, and what is remembered for the next one.

``violations.extra_fields`` reads the refusal, ``without`` removes the fields, ``places_of`` turns the changes into places, and
``Learned`` remembers those for the same upstream, caller, model and endpoint; the filter leaves them out of later requests.
A place is a field's path without indices: ``("messages", "*", "name")``.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from mistral_filter.changes import Change
from mistral_filter.fields import ENDPOINTS, Array, Node, Object, Tagged
from mistral_filter.parsing import parse_with_surrogates
from mistral_filter.parts import encode
from mistral_filter.proxy.violations import Loc
from mistral_filter.rawjson import as_array, as_object, as_text
from mistral_filter.surrogates import Surrogates

__all__ = ["Learned", "Place", "places_of", "without"]

Place = tuple[str, ...]

_KEPT = re.compile(r"model|messages|messages\[\d+\](\.role|\.content)?")
"""Never removed, whatever a refusal says: without it the request is another one, or none."""

_REASON = "Mistral refused the field (422 extra_forbidden)"

_SIMPLE_KEY = re.compile(r"[\w-]+")
_SIMPLE_PATH = re.compile(r"[\w-]+(\[\d+\]|\.[\w-]+)*")

_MAX_TEXT = 200
"""Characters of a model's name or a place that are remembered; longer ones are not."""

_MAX_STEPS = 500
"""To find one place."""


# ---------------------------------------------------------------------------------------------------------------- memory

_Scope = tuple[str, bytes, str | None, str]
"""Upstream, hash of the caller, model, endpoint."""


class Learned:
    """What one process has learnt: places that Mistral refused. It saves second tries, and is never needed for correctness.

    At most *size* places in all, each for *seconds*; beyond that the oldest goes. What one caller's refusal taught is used for
    that caller alone. Callers without credentials cannot be told apart, so nothing is remembered for them.
    """

    def __init__(self, size: int = 256, seconds: float = 3600.0) -> None:
        self._size = size
        self._seconds = seconds
        self._salt = os.urandom(32)
        self._until: dict[tuple[_Scope, Place], float] = {}  # the oldest first
        self._places: dict[_Scope, tuple[Place, ...]] = {}
        self._lock = threading.Lock()

    def learn(self, upstream: str, caller: str | None, model: str | None, endpoint: str, places: Iterable[Place]) -> None:
        """Remembers *places* that *upstream* refused in a request to *endpoint*.

        *caller* is the Authorization value that the caller sent, of which a keyed hash is kept. Nothing is remembered without it,
        or of texts over 200 characters.
        """
        if caller is None or any(len(text) > _MAX_TEXT for text in (upstream, model or "", endpoint)):
            return
        scope = (upstream, self._hash(caller), model, endpoint)
        short = [place for place in places if len(".".join(place)) <= _MAX_TEXT]
        with self._lock:
            now = time.monotonic()
            for place in short[-self._size :]:
                self._until.pop((scope, place), None)  # learnt again, it is the newest
                self._until[scope, place] = now + self._seconds
            self._list(scope)
            for entry, until in list(self._until.items()):
                if until > now and len(self._until) <= self._size:
                    break
                self._forget(entry)

    def places(self, upstream: str, caller: str | None, model: str | None, endpoint: str) -> tuple[Place, ...]:
        """The places to leave out of a request, the one learnt longest ago first; () for most requests."""
        if caller is None or not self._places:
            return ()
        scope = (upstream, self._hash(caller), model, endpoint)
        if scope not in self._places:
            return ()
        with self._lock:
            now = time.monotonic()
            for place in self._places.get(scope, ()):
                if self._until[scope, place] <= now:
                    self._forget((scope, place))
            return self._places.get(scope, ())

    def _forget(self, entry: tuple[_Scope, Place]) -> None:
        del self._until[entry]
        self._list(entry[0])

    def _list(self, scope: _Scope) -> None:
        places = tuple(place for known, place in self._until if known == scope)
        if places:
            self._places[scope] = places
        else:
            self._places.pop(scope, None)

    def _hash(self, caller: str) -> bytes:
        return hashlib.blake2b(caller.encode("utf-8", "surrogatepass"), digest_size=16, key=self._salt).digest()


def places_of(changes: Iterable[Change]) -> tuple[Place, ...]:
    """The places of what ``without`` removed, each once. Keys that could be read as a path are left out."""
    paths = [change.path for change in changes if _SIMPLE_PATH.fullmatch(change.path) and not _KEPT.fullmatch(change.path)]
    return tuple(dict.fromkeys(tuple(re.sub(r"\[\d+\]", ".*", path).split(".")) for path in paths))


# ---------------------------------------------------------------------------------------------------------------- bodies


def without(body: bytes, locs: Iterable[Loc], endpoint: str = "chat") -> tuple[bytes, list[Change]]:
    """*body*, of a request to *endpoint*, without exactly the fields that *locs* name, and the changes.

    No change at all if one of them may not go: fields that the API requires stay, whatever a refusal says. Raises BadRequest for
    a body that is not a JSON object.
    """
    root, hidden = parse_with_surrogates(body)
    found: dict[str, tuple[Any, str]] = {}
    for loc in locs:
        field = _find(root, loc[1:] if loc[:1] == ("body",) else loc, "", ENDPOINTS[endpoint], [_MAX_STEPS])
        if field is None or _KEPT.fullmatch(field[0]):
            return body, []
        found[field[0]] = field[1:]
    for node, key in found.values():
        del node[key]
    changes = [Change("drop", path, _REASON, "lost") for path in found]
    return (_encoded(root, hidden), changes) if changes else (body, [])


def _encoded(root: Any, hidden: Surrogates | None) -> bytes:
    return encode(root) if hidden is None else hidden.restore(encode(root))


def _find(node: Any, loc: Sequence[int | str], path: str, known: Node | None, steps: list[int]) -> tuple[str, Any, str] | None:
    """The field at *loc* below the visited *node*: its path, the object that holds it, and its key there; None: it is not there.

    *known* is what the tables say of the node, *steps* how many are left for all ways to read *loc* together. A string in *loc*
    may be a label or a key. Where objects are told apart by a tag, or may be, the tag comes first; otherwise a key does, and a
    string that is no key is a label.
    """
    if not loc:
        return None
    part, rest = loc[0], loc[1:]
    steps[0] -= 1
    if steps[0] < 0:
        return None
    if isinstance(part, int):
        if not isinstance(node, list) or not 0 <= part < len(node) or not rest:
            return None
        node[part] = _visited(node[part])
        items = known.items if isinstance(known, Array) else known
        return _find(node[part], rest, f"{path}[{part}]", items, steps)
    if not isinstance(node, dict):
        return _find(node, rest, path, known, steps) if rest else None
    if not isinstance(known, Object):
        by = (known.by,) if isinstance(known, Tagged) else ("role", "type")
        tags = [as_text(node.get(name)) for name in by]
        known = known.variants.get(tags[0] or "") if isinstance(known, Tagged) else None
        if rest and part in tags and (found := _find(node, rest, path, known or _UNKNOWN, steps)) is not None:
            return found
    if part not in node:
        return _find(node, rest, path, known, steps) if rest else None
    key = part if _SIMPLE_KEY.fullmatch(part) else f"[{part!r}]"
    here = f"{path}.{key}" if path else key
    table = known if isinstance(known, Object) else None
    if not rest:
        return None if table is not None and part in table.required else (here, node, part)
    node[part] = _visited(node[part])
    return _find(node[part], rest, here, table and table.fields.get(part), steps)


_UNKNOWN = Object({})
"""An object of which the tables say nothing, and whose label has been read."""


def _visited(value: Any) -> Any:
    if (node := as_object(value)) is not None:
        return node
    return value if (items := as_array(value)) is None else items
