"""Learning from a refusal: the request without what it names, and what is remembered for the next one.

``violations`` reads the refusal, ``cured`` mends the request, and ``Learned`` remembers what it did for the same upstream,
caller, model and endpoint; the filter does the same to later requests.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mistral_filter.changes import Change
from mistral_filter.dialect.values import reason_and_loss
from mistral_filter.fields import ENDPOINTS, Array, Node, Object, Tagged
from mistral_filter.filtering import Learnt
from mistral_filter.models import nearest_word
from mistral_filter.parsing import parse_with_surrogates
from mistral_filter.parts import encode
from mistral_filter.proxy.violations import NOT_ENABLED, Violation
from mistral_filter.rawjson import as_array, as_object, as_text
from mistral_filter.surrogates import Surrogates

__all__ = ["Cured", "Learned", "cured", "learnt_of"]

_KEPT = re.compile(r"model|messages|messages\[\d+\](\.role|\.content)?")
"""Never removed, whatever a refusal says: without it the request is another one, or none."""

_SIMPLE_KEY = re.compile(r"[\w-]+")
_SIMPLE_PATH = re.compile(r"[\w-]+(\[\d+\]|\.[\w-]+)*")

_MAX_TEXT = 200
"""Characters of a model's name or a place that are remembered; longer ones are not."""

_MAX_STEPS = 500
"""To find one place."""


# ---------------------------------------------------------------------------------------------------------------- memory

_Scope = tuple[str, bytes, str | None, str]
"""Upstream, hash of the caller, model, endpoint."""

_Key = tuple[_Scope, tuple[str, ...]]
"""Scope and location: of one place the latest is known."""


class Learned:
    """What one process has learnt of fields that Mistral refused. It saves second tries, and is never needed for correctness.

    At most *size* places in all, each for *seconds*; beyond that the oldest goes. What one caller's refusal taught is used for
    that caller alone. Callers without credentials cannot be told apart, so nothing is remembered for them; nor is what a model
    does not take for requests that name none.
    """

    def __init__(self, size: int = 256, seconds: float = 3600.0) -> None:
        self._size = size
        self._seconds = seconds
        self._salt = os.urandom(32)
        self._entries: dict[_Key, tuple[float, Learnt]] = {}  # the oldest first, each with its end
        self._known: dict[_Scope, tuple[Learnt, ...]] = {}
        self._lock = threading.Lock()

    def learn(self, upstream: str, caller: str | None, model: str | None, endpoint: str, learnt: Iterable[Learnt]) -> None:
        """Remembers what *upstream* refused in a request to *endpoint*.

        *caller* is the Authorization value that the caller sent, of which a keyed hash is kept. Nothing is remembered without it,
        or of texts over 200 characters.
        """
        if caller is None or any(len(text) > _MAX_TEXT for text in (upstream, model or "", endpoint)):
            return
        scope = (upstream, self._hash(caller), model, endpoint)
        short = [each for each in learnt if len(".".join(each.location)) <= _MAX_TEXT and not (each.of_model and model is None)]
        with self._lock:
            now = time.monotonic()
            for each in short[-self._size :]:
                self._entries.pop((scope, each.location), None)  # learnt again, it is the newest
                self._entries[scope, each.location] = (now + self._seconds, each)
            self._list(scope)
            for key, (until, _) in list(self._entries.items()):
                if until > now and len(self._entries) <= self._size:
                    break
                self._forget(key)

    def known(self, upstream: str, caller: str | None, model: str | None, endpoint: str) -> tuple[Learnt, ...]:
        """What is known of a request's fields, learnt longest ago first; () for most requests."""
        if caller is None or not self._known:
            return ()
        scope = (upstream, self._hash(caller), model, endpoint)
        if scope not in self._known:
            return ()
        with self._lock:
            now = time.monotonic()
            for each in self._known.get(scope, ()):
                if self._entries[scope, each.location][0] <= now:
                    self._forget((scope, each.location))
            return self._known.get(scope, ())

    def _forget(self, key: _Key) -> None:
        del self._entries[key]
        self._list(key[0])

    def _list(self, scope: _Scope) -> None:
        known = tuple(each for (of, _), (_, each) in self._entries.items() if of == scope)
        if known:
            self._known[scope] = known
        else:
            self._known.pop(scope, None)

    def _hash(self, caller: str) -> bytes:
        return hashlib.blake2b(caller.encode("utf-8", "surrogatepass"), digest_size=16, key=self._salt).digest()


# ---------------------------------------------------------------------------------------------------------------- bodies


class Cured(NamedTuple):
    """A body after a refusal."""

    body: bytes
    changes: tuple[Change, ...] = ()
    """Empty: nothing can be done, and the body is as it was."""
    learnt: tuple[Learnt, ...] = ()


def cured(body: bytes, violations: Iterable[Violation], endpoint: str = "chat") -> Cured:
    """*body*, of a request to *endpoint*, without exactly the fields that *violations* name, or with the nearest of the values
    that they list.

    Nothing is changed if one of them may not go: fields that the API requires stay, whatever a refusal says. What a model does
    not take may be asked for in several places, of which some are in the body. Raises BadRequest for a body that is not a JSON
    object.
    """
    root, hidden = parse_with_surrogates(body)
    found: dict[str, tuple[Any, str, Violation]] = {}
    for violation in violations:
        loc = violation.loc
        field = _find(root, loc[1:] if loc[:1] == ("body",) else loc, "", ENDPOINTS[endpoint], [_MAX_STEPS])
        if field is None and violation.kind == NOT_ENABLED:
            continue
        if field is None or _KEPT.fullmatch(field[0]):
            return Cured(body)
        found[field[0]] = (*field[1:], violation)
    changes, learnt = [], []
    for path, (node, key, violation) in found.items():
        of_model = violation.kind == NOT_ENABLED
        nearest = nearest_word(as_text(node[key]), violation.values)
        if nearest is not None and nearest == as_text(node[key]):
            return Cured(body)  # what was sent is among the values that are said to be taken
        if nearest is None:
            reason, loss = reason_and_loss(key, node.pop(key), _REASONS[of_model])
            changes.append(Change("drop", path, reason, loss))
        else:
            node[key] = nearest
            reason = f"Mistral refused the value; this model takes {', '.join(violation.values)} (400 code 3051)"
            changes.append(Change("set", path, reason, "approximate"))
        learnt += learnt_of(path, () if nearest is None else violation.values, of_model=of_model)
    return Cured(_encoded(root, hidden), tuple(changes), tuple(learnt)) if changes else Cured(body)


_REASONS = ("Mistral refused the field (422 extra_forbidden)", "this model does not take the field (400 code 3051)")


def learnt_of(path: str, values: tuple[str, ...] = (), *, of_model: bool = False) -> list[Learnt]:
    """What is learnt of the field at *path*; nothing where a key in it could be read as a path, or where it is always needed."""
    if not _SIMPLE_PATH.fullmatch(path) or _KEPT.fullmatch(path):
        return []
    return [Learnt(tuple(re.sub(r"\[\d+\]", ".*", path).split(".")), values, of_model)]


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
