"""The filter itself: bytes in, bytes out, one pass over the tables of ``mistral_filter.fields``.

Strategy: open the top level and the parts that a table or a rule says something about, leave every other value as the bytes it
came in, and write back only what changed. Translations (``mistral_filter.dialect``) come first, then the lists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import msgspec
from msgspec import Raw

from mistral_filter.changes import Change
from mistral_filter.dialect.translation import Translation
from mistral_filter.document import Document
from mistral_filter.errors import InvalidJSON, Refused, TooDeep
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS, KEEP
from mistral_filter.fields import Object as Table
from mistral_filter.judge import Judge, Learnt, LeftOut, leave_out
from mistral_filter.media import LEAST, Media, put_aside
from mistral_filter.models import aliases_of
from mistral_filter.parsing import parse_with_surrogates
from mistral_filter.parts import Object, encode
from mistral_filter.plain import LEAST as LEAST_PLAIN
from mistral_filter.plain import read_plain
from mistral_filter.rawjson import encode as encode_text
from mistral_filter.surrogates import Surrogates
from mistral_filter.toolnames import ToolNames

__all__ = ["BOM", "Facts", "Filtered", "Learnt", "accepted_names", "filter_body"]

_TRUE = Raw(b"true")
BOM = b"\xef\xbb\xbf"
"""A byte order mark. A body may begin with one; it does not reach Mistral."""


class Facts(NamedTuple):
    """What a response needs to know of its request, so that the body need not be read again."""

    model: str | None = None
    """The model's name as Mistral gets it; None if the body has none."""
    stream: bool = False
    """Whether the request asks for a stream."""
    base64: bool = False
    """Whether the request asks for embeddings as base64."""
    tool_names: Mapping[str, str] = MappingProxyType({})
    """The names of tools that were replaced, as they were sent, and the client's own: ``restore_tool_names`` puts those back into
    an answer. At most ``toolnames.MOST``."""


class Filtered(NamedTuple):
    """A body as Mistral accepts it, what was changed to make it so, and what the request asks for."""

    body: bytes
    changes: tuple[Change, ...]
    facts: Facts


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
    models: Mapping[str, str] | None = None,
    learnt: Callable[[str | None], Iterable[Learnt]] | Iterable[Learnt] = (),
) -> Filtered:
    """The JSON *body* of a request to *endpoint* (a key of ``fields.ENDPOINTS``), as Mistral accepts it.

    *fields* is the list for chat, ``classic`` or ``current``. *allow* adds top-level names to the endpoint's list, *drop* removes
    some. *translate* translates what has a counterpart at Mistral. *bridge* inserts an assistant message between a tool message
    and a user message. *strict* refuses a body that would lose something. *models* maps names that clients use to models, with
    or without *translate*: an exact name counts before a pattern, of several patterns the first that matches
    (``{"gpt-4o": "mistral-large-latest", "gpt-*": "mistral-small-latest"}``). *learnt* is what Mistral's earlier answers said
    about fields, or a function that returns it for a model's name: each such field is left out, or gets the nearest accepted
    value. Fields that the endpoint requires, and the role and content of messages, stay; with *strict* no field is left out for
    it. A body without changes comes back as the same bytes.

    Raises InvalidJSON, TooDeep, TooComplex or BadRequest for a body that is not a JSON object of bounded depth and size; Refused
    for a part that has no translation or, in strict mode, would be lost; KeyError for an unknown *endpoint* or *fields*;
    ValueError for *models* that cannot be used.
    """
    lists = _lists(endpoint, fields, tuple(allow), tuple(drop))
    try:
        request = _opened(body.removeprefix(BOM))
        root = request.root
        if models and "model" in lists.accepted.fields:
            _resolve_alias(root, models)
        known = learnt(root.text("model")) if callable(learnt) else learnt
        known = [each for each in known if each.values or not strict] if known else ()
        names = ToolNames()
        translation = None
        if translate:
            accepted = _that_stay(lists.accepted, known) if known else lists.accepted.fields
            translation = Translation(root, endpoint, accepted, names, bridge=bridge)
            translation.top()
        judge = Judge(repair=translate, learnt=known, conversation=translation.conversation if translation else None)
        judge.top(root, lists.accepted, lists.left_out)
        request.document.finish()
        return _result(request, endpoint, names, strict=strict)
    except RecursionError:  # some interpreters give up before our own limit is seen
        raise TooDeep from None


class _Request(msgspec.Struct):
    """A body that has been opened, and what of it is out of sight meanwhile."""

    body: bytes
    """As it came."""
    media: Media | None
    hidden: Surrogates | None
    document: Document
    root: Object

    def written(self) -> bytes:
        """The body as it is now, with all that was out of sight."""
        out = encode(self.root.fields)
        if self.hidden:
            out = self.hidden.restore(out)
        return self.media.restore(out) if self.media else out


def _opened(body: bytes) -> _Request:
    media = put_aside(body) if len(body) >= LEAST else None
    if media is not None:
        try:
            return _read(body, media, media.body)
        except InvalidJSON:
            pass  # the error of the whole body names the byte
    return _read(body, None, body)


def _read(body: bytes, media: Media | None, text: bytes) -> _Request:
    plain = read_plain(text) if len(text) >= LEAST_PLAIN else None
    if plain is not None:
        document = Document(text, plain)
        return _Request(body, media, None, document, document.top(plain.fields, text))
    document = Document(text)
    top, hidden = parse_with_surrogates(text)
    return _Request(body, media, hidden, document, document.top(top, hidden.body if hidden else text))


def _that_stay(accepted: Table, known: Iterable[Learnt]) -> Collection[str]:
    """The *accepted* names at the top but for those that Mistral's earlier answers refused."""
    return accepted.fields.keys() - {each.location[0] for each in known if len(each.location) == 1 and not each.values}


def _resolve_alias(root: Object, models: Mapping[str, str]) -> None:
    name = root.text("model")
    if name is not None and (model := aliases_of(tuple(models.items())).resolve(name)) != name:
        root.set("model", model, "the setting models gives this name another model", to=model)


def _result(request: _Request, endpoint: str, names: ToolNames, *, strict: bool) -> Filtered:
    root, hidden = request.root, request.hidden
    changes = root.document.changes
    model = root.text("model")
    tool_names = names.sent()
    if hidden:
        changes = [change._replace(path=hidden.restore_text(change.path)) for change in changes]
        model = None if model is None else hidden.restore_text(model)
        tool_names = {sent: json.loads(hidden.restore(encode_text(name))) for sent, name in tool_names.items()}
    if strict and (lost := [change.path for change in changes if change.loss == "lost"]):
        raise Refused(
            f"Strict mode: Mistral has no counterpart for {', '.join(lost)}. Leave that out, or turn strict mode off.",
            param=lost[0],
            code="strict",
        )
    base64 = endpoint == "embeddings" and root.text("encoding_format") == "base64"
    facts = Facts(model, root.fields.get("stream") == _TRUE, base64, tool_names)
    if not root.position.edited and not changes:
        return Filtered(request.body, (), facts)
    return Filtered(request.written(), tuple(changes), facts)


class _Lists(NamedTuple):
    accepted: Table
    left_out: Mapping[str, LeftOut]
    """The names that the API knows and that are not accepted."""


@lru_cache(maxsize=64)
def _lists(endpoint: str, fields: str, allow: tuple[str, ...], drop: tuple[str, ...]) -> _Lists:
    known = ENDPOINTS[endpoint].fields
    table = CHAT_FIELDS[fields] if endpoint == "chat" else ENDPOINTS[endpoint]
    added = {name: known.get(name, KEEP) for name in allow}
    names = {name: node for name, node in {**table.fields, **added}.items() if name not in drop}
    reason = f"The list {fields} leaves the field out; current keeps it"
    out = {name: leave_out(reason, node) for name, node in known.items() if name not in names}
    out |= dict.fromkeys(drop, leave_out("The setting drop leaves the field out", KEEP))
    return _Lists(table._replace(fields=names), out)


def accepted_names(endpoint: str, fields: str = "classic") -> tuple[str, ...]:
    """The top-level names that *endpoint* keeps."""
    return tuple(_lists(endpoint, fields, (), ()).accepted.fields)
