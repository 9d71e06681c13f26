"""The filter itself: bytes in, bytes out, one pass over the tables of ``mistral_filter.fields``.

Strategy: open the top level and the parts that a table or a rule says something about, leave every other value as the bytes it
came in, and write back only what changed. Translations (``mistral_filter.dialect``) come first, then the lists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Raw

from mistral_filter.changes import Change
from mistral_filter.dialect import effort, request, tools
from mistral_filter.dialect.messages import Conversation, request_for_more
from mistral_filter.dialect.response_items import response_items
from mistral_filter.dialect.response_request import response_request
from mistral_filter.dialect.responses import responses_body
from mistral_filter.dialect.thoughts import reads_reasoning
from mistral_filter.document import Document
from mistral_filter.errors import InvalidJSON, Refused, TooDeep
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS, KEEP, RESPONSES
from mistral_filter.fields import Object as Table
from mistral_filter.judge import Judge, Learnt
from mistral_filter.media import LEAST, Media, put_aside
from mistral_filter.models import aliases_of
from mistral_filter.parsing import parse_with_surrogates
from mistral_filter.parts import Array, Object, encode
from mistral_filter.rawjson import encode as encode_text
from mistral_filter.surrogates import Surrogates
from mistral_filter.toolnames import ToolNames

__all__ = ["BOM", "Facts", "Filtered", "Learnt", "accepted_names", "filter_body"]

_TRUE = Raw(b"true")
BOM = b"\xef\xbb\xbf"
"""A byte order mark. A body may begin with one; it does not reach Mistral."""

_CHAT_ENDPOINTS = ("chat", "agents")


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
    body = body.removeprefix(BOM)
    try:
        media = put_aside(body) if len(body) >= LEAST else None
        try:
            document, root, hidden = _opened(body if media is None else media.body)
        except InvalidJSON:
            if media is None:
                raise
            media = None
            document, root, hidden = _opened(body)  # whose error names the byte
        if models and "model" in lists.accepted.fields:
            _resolve_alias(root, models)
        known = learnt(root.text("model")) if callable(learnt) else learnt
        known = [each for each in known if each.values or not strict]
        conversation = None
        names = ToolNames()
        if translate:
            left_out = {each.location[0] for each in known if len(each.location) == 1 and not each.values}
            stays = lists.accepted.fields.keys() - left_out
            reads = _translate(root, endpoint, stays, names)
            conversation = partial(_converse, root, endpoint, stays, reads, bridge, names)
        judge = Judge(repair=translate, learnt=known, conversation=conversation)
        judge.top(root, lists.accepted, lists.left_out)
        document.finish()
        return _result(root, hidden, media, body, endpoint, names, strict=strict)
    except RecursionError:  # some interpreters give up before our own limit is seen
        raise TooDeep from None


def _opened(body: bytes) -> tuple[Document, Object, Surrogates | None]:
    document = Document(body)
    top, hidden = parse_with_surrogates(body)
    return document, document.top(top, hidden.body if hidden else body), hidden


def _resolve_alias(root: Object, models: Mapping[str, str]) -> None:
    name = root.text("model")
    if name is not None and (model := aliases_of(tuple(models.items())).resolve(name)) != name:
        root.set("model", model, "the setting models gives this name another model", to=model)


def _translate(root: Object, endpoint: str, names: Collection[str], tool_names: ToolNames) -> bool:
    """All rules above the messages, which are translated when the judge comes to them. *names* are the fields that stay.

    Returns whether the messages may hold earlier reasoning.
    """
    reasons = reads = False
    model = root.text("model") if "model" in names else None
    if endpoint in _CHAT_ENDPOINTS:
        effort.rename_effort(root)
        if "reasoning_effort" in names:
            effort.nearest_effort(root, "reasoning_effort", model)
            reasons = effort.asks_for_effort(root, "reasoning_effort")
        reasons = reasons or ("prompt_mode" in names and root.text("prompt_mode") == "reasoning")
        reads = reads_reasoning(model, asked=reasons)
        responses_body(root, reads_reasoning=reads)
        if "functions" in root.fields or "function_call" in root.fields:
            tools.legacy_functions(root)
        if "tools" in names:
            tools.tools(root)
            tools.tool_choice(root)
            tool_names.tools(root)
        if "prediction" in names:
            request.prediction(root)
        request.response_format(root)
    elif endpoint in RESPONSES:
        response_request(root, endpoint, names)
        if "tools" in names:
            tool_names.tools(root)
        reasoning = root.object("reasoning") if "reasoning" in names else None
        if reasoning is not None:
            effort.nearest_effort(reasoning, "effort", model)
            reasons = effort.asks_for_effort(reasoning, "effort")
        reads = reads_reasoning(model, asked=reasons)
    elif endpoint == "embeddings":
        request.embedding_input(root)
        request.embedding_dimension(root)
    elif endpoint in ("chat/moderations", "chat/classifications"):
        request.moderated_messages(root, nested=endpoint == "chat/classifications")
    request.rename_fields(root, names)
    request.stop(root)
    if "temperature" in names and "top_p" in names:
        effort.greedy_sampling(root, reasons=reasons)
    return reads


def _converse(
    root: Object,
    endpoint: str,
    accepted: Collection[str],
    reads: bool,
    bridge: bool,
    names: ToolNames,
    messages: Array,
    judge: Judge,
) -> None:
    if endpoint in RESPONSES:
        response_items(messages, judge, reads_reasoning=reads, names=names)
        return
    ordered = endpoint in _CHAT_ENDPOINTS
    more = request_for_more(root, accepted) if ordered else None
    Conversation(ordered=ordered, reads_reasoning=reads, bridge=bridge, names=names, more=more)(messages, judge)


def _result(
    root: Object, hidden: Surrogates | None, media: Media | None, body: bytes, endpoint: str, names: ToolNames, *, strict: bool
) -> Filtered:
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
        return Filtered(body, (), facts)
    out = encode(root.fields)
    if hidden:
        out = hidden.restore(out)
    return Filtered(media.restore(out) if media else out, tuple(changes), facts)


class _Lists(NamedTuple):
    accepted: Table
    left_out: Mapping[str, str]
    """Why a name that the API knows is not accepted."""


@lru_cache(maxsize=64)
def _lists(endpoint: str, fields: str, allow: tuple[str, ...], drop: tuple[str, ...]) -> _Lists:
    known = ENDPOINTS[endpoint].fields
    table = CHAT_FIELDS[fields] if endpoint == "chat" else ENDPOINTS[endpoint]
    added = {name: known.get(name, KEEP) for name in allow}
    names = {name: node for name, node in {**table.fields, **added}.items() if name not in drop}
    left_out = {name: f"The list {fields} leaves the field out; current keeps it" for name in known if name not in names}
    left_out |= dict.fromkeys(drop, "The setting drop leaves the field out")
    return _Lists(table._replace(fields=names), left_out)


def accepted_names(endpoint: str, fields: str = "classic") -> tuple[str, ...]:
    """The top-level names that *endpoint* keeps."""
    return tuple(_lists(endpoint, fields, (), ()).accepted.fields)
