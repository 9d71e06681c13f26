"""The filter itself: bytes in, bytes out, one pass over the tables of ``mistral_filter.fields``.

Strategy: decode the top level and the levels that a table says something about, leave every other value as the bytes it
came in, and write back only what changed. Translations (``mistral_filter.dialect``) come first, then the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec import Raw
from msgspec.json import decode

from mistral_filter import dialect
from mistral_filter.changes import Action, Change
from mistral_filter.errors import Refused, TooDeep
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS, MESSAGES, Array, Node, Object, Tagged, Value
from mistral_filter.rawjson import (
    NULL,
    as_objects,
    as_text,
    check_depth,
    encode,
    first_byte,
    may_be_deep,
    parse_with_surrogates,
    plain_talk,
    repeated_keys,
    with_sent_bytes,
)
from mistral_filter.rawjson import Node as JSONObject

__all__ = ["BOM", "Filtered", "accepted_names", "filter_body"]

BOM = b"\xef\xbb\xbf"
"""A byte order mark. A body may begin with one; it does not reach Mistral."""


class Filtered(NamedTuple):
    """A body as Mistral accepts it, and what was changed to make it so."""

    body: bytes
    changes: tuple[Change, ...]


def filter_body(
    body: bytes,
    endpoint: str = "chat",
    *,
    fields: str = "classic",  # the thirteen fields of the worker that this replaces; "current" loses less
    allow: Iterable[str] = (),
    drop: Iterable[str] = (),
    translate: bool = True,
    bridge: bool = False,  # Mistral accepts a user message after a tool's since 2026-04
    strict: bool = False,
) -> Filtered:
    """The JSON *body* of a request to *endpoint* (a key of ``fields.ENDPOINTS``), as Mistral accepts it.

    *fields* is the list for chat, ``classic`` or ``current``; *allow* and *drop* add to and take away from the endpoint's
    top-level names; *translate* turns what has a counterpart into it; *bridge* puts an assistant message between a tool's
    and a user's; *strict* refuses to lose anything. Without a change the very same bytes come back.

    Raises InvalidJSON, TooDeep and BadRequest for a body that is not a JSON object, Refused for what has no translation
    or, in strict mode, would be lost; KeyError for an unknown *endpoint* or *fields*.
    """
    table = _table(endpoint, fields, tuple(allow), tuple(drop))
    try:
        return _filter(body.removeprefix(BOM), endpoint, table, translate=translate, bridge=bridge, strict=strict)
    except RecursionError:  # some interpreters give up before our own limit is seen
        raise TooDeep from None


def _filter(body: bytes, endpoint: str, table: Object, *, translate: bool, bridge: bool, strict: bool) -> Filtered:
    top, hidden = parse_with_surrogates(body)
    changes: list[Change] = []
    sent = hidden.body if hidden else body
    for name in repeated_keys(sent.strip(), top):
        changes.append(Change("drop", name, dialect.REPEATED, "none"))
    deep = may_be_deep(sent)
    for name, value in top.items():
        if (
            deep and table.fields.get(name) is not MESSAGES
        ):  # a long conversation is not deep: its messages are looked at one by one
            _check_depth(value)
    converse = None
    if translate:
        origins = dialect.translate_top(endpoint, top, table.fields, changes)
        converse = dialect.conversation(endpoint, top, changes, bridge=bridge, origins=origins)
    _Judge(changes, converse, deep=deep).object(top, table, "")
    if hidden:
        changes = [change._replace(path=hidden.restore_text(change.path)) for change in changes]
    if strict and (lost := [change.path for change in changes if change.loss == "lost"]):
        raise Refused(
            f"Strict mode: Mistral has no counterpart for {', '.join(lost)}. Leave that out, or turn strict mode off.",
            param=lost[0],
            code="strict",
        )
    if not changes:
        return Filtered(body, ())
    out = encode(top)
    return Filtered(hidden.restore(out) if hidden else out, tuple(changes))


@lru_cache(maxsize=64)
def _table(endpoint: str, fields: str, allow: tuple[str, ...], drop: tuple[str, ...]) -> Object:
    table = CHAT_FIELDS[fields] if endpoint == "chat" else ENDPOINTS[endpoint]
    added = {name: ENDPOINTS[endpoint].fields.get(name, Value()) for name in allow}
    names = {name: node for name, node in {**table.fields, **added}.items() if name not in drop}
    return table._replace(fields=names)


def accepted_names(endpoint: str, fields: str = "classic") -> tuple[str, ...]:
    """The top-level names that *endpoint* keeps."""
    return tuple(_table(endpoint, fields, (), ()).fields)


_TAGS = {
    encode(tag): tag
    for tag in "system user assistant tool text image_url document_url reference file thinking input_audio function".split()
}
"""The commonest tags by their JSON, so that they need no decoding."""


def _tag(value: Any) -> str | None:
    if isinstance(value, Raw) and (tag := _TAGS.get(bytes(value))) is not None:
        return tag
    return as_text(value)


class _Judge:
    """Walks one body along its table, drops what the API refuses and notes it."""

    def __init__(self, changes: list[Change], converse: Callable[..., dialect.Conversation] | None, *, deep: bool) -> None:
        """*converse* makes the translator of a conversation; None: nothing is translated. *deep*: depths are to be checked."""
        self._changes = changes
        self._converse = converse
        self._deep = deep

    def object(self, node: JSONObject, table: Object, path: str) -> None:
        """Judges a visited object in place."""
        for name in list(node):
            value = node[name]
            known = table.fields.get(name)
            here = f"{path}.{name}" if path else name
            if known is None:
                del node[name]
                dialect.report_drop(name, value, here, self._changes)
            elif value == NULL:
                if self._converse and not isinstance(known, Tagged) and not known.null and name not in table.required:
                    del node[name]
                    self._changes.append(Change("drop", here, "Mistral refuses null here", "none"))
            else:
                judged = self._value(value, known, name, here)
                if judged is dialect.DROP:
                    del node[name]
                elif judged is not value:
                    node[name] = judged

    def _value(self, value: Any, known: Node, name: str, path: str) -> Any:
        """*value* as it may stay: the same object where nothing changed, DROP where the field has to go."""
        kind = first_byte(value)
        if isinstance(known, Value):
            if self._converse and known[1:] != _FREE and (repair := dialect.repair_value(name, value, known)):
                action: Action = "drop" if repair.value is dialect.DROP else "set"
                self._changes.append(Change(action, path, repair.reason, repair.loss))
                return repair.value
            return value
        if kind not in b"[{\0" or isinstance(value, str):
            return value
        if known is MESSAGES:
            return self._messages(value, path)
        if kind == 0x5B or isinstance(value, list):
            # a list where one object stands: its items are judged as that object (an image, an input, …)
            return self._items(value, known.items if isinstance(known, Array) else known, path)
        if isinstance(known, Array):
            return value
        node = value if isinstance(value, dict) else decode(value, type=dict[str, Raw])
        mark = len(self._changes)
        self._repeated(value, node, path)
        self._one(node, known, path)
        return value if len(self._changes) == mark else node

    def _items(self, value: Any, known: Node, path: str, *, inner: bool = False) -> Any:
        items = as_objects(value) or []
        touched = dialect.report_repeated(value, items, path, self._changes)
        for index, item in enumerate(items):
            mark = len(self._changes)
            here = f"{path}[{index}]"
            if isinstance(item, dict):
                self._one(item, known, here)
            elif first_byte(item) == 0x5B and not inner:
                items[index] = self._items(item, known, here, inner=True)
            if len(self._changes) != mark:
                touched.add(index)
        if touched:
            items = with_sent_bytes(items, value, touched)
        if dialect.DROP in items:  # what a translation took out, and kept the place of until now
            return [item for item in items if item is not dialect.DROP]
        return items if touched else value

    def _one(self, node: JSONObject, known: Node, path: str) -> None:
        """Judges a visited object by a table for objects; one of an unknown kind is left to the API."""
        if isinstance(known, Tagged):
            variant = known.variants.get(_tag(node.get(known.by, NULL)) or "")
            if variant is not None:
                self.object(node, variant, path)
        elif isinstance(known, Object):
            self.object(node, known, path)

    def _repeated(self, sent: Any, node: JSONObject, path: str) -> None:
        if isinstance(sent, Raw):
            for name in repeated_keys(sent, node):
                self._changes.append(Change("drop", f"{path}.{name}", dialect.REPEATED, "none"))

    def _messages(self, value: Any, path: str, *, inner: bool = False) -> Any:
        if plain_talk(value):
            return value
        messages = as_objects(value)
        if messages is None:
            _check_depth(value)
            return value
        start = len(self._changes)
        known, talk = MESSAGES.items, self._converse and self._converse(inner=inner)
        touched = dialect.report_repeated(value, messages, path, self._changes)
        for index, message in enumerate(messages):
            if type(message) is dict and len(message) == 2:
                # most messages are a role and a text
                role, content = message.get("role"), message.get("content")
                if type(role) is Raw and type(content) is Raw and (plain := _PLAIN_ROLES.get(bytes(role))) is not None:
                    is_text = len(content) > 2 and memoryview(content)[0] == 0x22
                    if is_text and index not in touched and (talk is None or talk.keep(index, plain)):
                        continue
            if self._deep:
                for part in message.values() if isinstance(message, dict) else [message]:
                    _check_depth(part)
            mark = len(self._changes)
            here = f"{path}[{index}]" if talk is None else talk.path(path, index)
            if isinstance(message, dict):
                if talk is not None:
                    for chunk, place in talk.translate(message, index, here):
                        self._one(chunk, _USERS_CHUNK, place)
                self._one(message, known, here)
            elif first_byte(message) == 0x5B and not inner:  # several conversations
                message = messages[index] = self._messages(message, here, inner=True)
            if len(self._changes) != mark:
                touched.add(index)
            if talk is not None:
                talk.place(message, index, here, touched=index in touched)
        if talk is None:
            return with_sent_bytes(messages, value, touched) if touched else value
        placed = talk.end(messages, path)
        if len(self._changes) == start:
            return value
        originals = with_sent_bytes(messages, value, ())
        return [originals[p] if isinstance(p, int) else p.message for p in placed]


def _check_depth(value: Any) -> None:
    if first_byte(value) in b"[{":
        check_depth(value)


def _users_chunk() -> Node:
    message = MESSAGES.items
    assert isinstance(message, Tagged)
    content = message.variants["user"].fields["content"]
    assert isinstance(content, Array)
    return content.items


_USERS_CHUNK = _users_chunk()
"""What a chunk that moves into a user's message is judged by."""

_FREE = Value()[1:]
_PLAIN_ROLES = {encode(role): role for role in ("system", "user", "assistant")}
