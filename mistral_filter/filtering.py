"""The filter itself: bytes in, bytes out, one pass over the tables of ``mistral_filter.fields``.

Strategy: open the top level and the parts that a table or a rule says something about, leave every other value as the bytes it
came in, and write back only what changed. Translations (``mistral_filter.dialect``) come first, then the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

from msgspec import Raw

from mistral_filter.changes import Change
from mistral_filter.dialect import effort, request, tools
from mistral_filter.dialect.messages import Conversation
from mistral_filter.dialect.responses import responses_body
from mistral_filter.dialect.thoughts import reads_reasoning
from mistral_filter.document import Document
from mistral_filter.errors import Refused, TooDeep
from mistral_filter.fields import CHAT_FIELDS, ENDPOINTS, KEEP
from mistral_filter.fields import Object as Table
from mistral_filter.judge import Judge, Location
from mistral_filter.models import aliases_of
from mistral_filter.parsing import parse_with_surrogates
from mistral_filter.parts import Array, Object, encode
from mistral_filter.surrogates import Surrogates

__all__ = ["BOM", "Facts", "Filtered", "accepted_names", "filter_body"]

_TRUE = Raw(b"true")
BOM = b"\xef\xbb\xbf"
"""A byte order mark. A body may begin with one; it does not reach Mistral."""

_CHAT_ENDPOINTS = ("chat", "agents")


class Facts(NamedTuple):
    """What others need to know of a request, so that nobody has to read its body again."""

    model: str | None = None
    """The model's name as Mistral gets it; None: there is none."""
    stream: bool = False
    """Whether the answer is asked for as a stream."""
    base64: bool = False
    """Whether embeddings are asked for as base64."""


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
    leave_out: Callable[[str | None], Iterable[Location]] | Iterable[Location] = (),
) -> Filtered:
    """The JSON *body* of a request to *endpoint* (a key of ``fields.ENDPOINTS``), as Mistral accepts it.

    *fields* is the list for chat, ``classic`` or ``current``; *allow* and *drop* add to and take away from the endpoint's
    top-level names; *translate* turns what has a counterpart into it; *bridge* puts an assistant message between a tool's
    and a user's; *strict* refuses to lose anything. *models* gives models the names that clients use for them: an exact name
    counts before a pattern (``{"gpt-4o": "mistral-large-latest", "gpt-*": "mistral-small-latest"}``), of patterns the first that
    matches, also without *translate*. *leave_out* are places of fields that Mistral refused before, each a tuple
    of keys with ``"*"`` for the index of a list: ``("messages", "*", "name")``, or a function that gives them for the model's
    name; what the endpoint requires, and a message's role and content, stay nevertheless. Without a change the very same bytes
    come back.

    Raises InvalidJSON, TooDeep, TooComplex and BadRequest for a body that is not a JSON object of bounded depth and size,
    Refused for what has no translation or, in strict mode, would be lost; KeyError for an unknown *endpoint* or *fields*;
    ValueError for *models* that cannot be used.
    """
    lists = _lists(endpoint, fields, tuple(allow), tuple(drop))
    body = body.removeprefix(BOM)
    try:
        document = Document(body)
        top, hidden = parse_with_surrogates(body)
        root = document.top(top, hidden.body if hidden else body)
        if models and "model" in lists.accepted.fields:
            _resolve_alias(root, models)
        places = tuple(leave_out(root.text("model")) if callable(leave_out) else leave_out)
        conversation = None
        if translate:
            stays = lists.accepted.fields.keys() - {place[0] for place in places if len(place) == 1}
            reads = _translate(root, endpoint, stays)
            conversation = partial(_converse, endpoint in _CHAT_ENDPOINTS, reads, bridge)
        judge = Judge(repair=translate, leave_out=places, conversation=conversation)
        judge.top(root, lists.accepted, lists.left_out)
        document.finish()
        return _result(root, hidden, body, endpoint, strict=strict)
    except RecursionError:  # some interpreters give up before our own limit is seen
        raise TooDeep from None


def _resolve_alias(root: Object, models: Mapping[str, str]) -> None:
    name = root.text("model")
    if name is not None and (model := aliases_of(tuple(models.items())).resolve(name)) != name:
        root.set("model", model, "the setting models gives this name another model", to=model)


def _translate(root: Object, endpoint: str, names: Collection[str]) -> bool:
    """All rules above the messages, which are translated when the judge comes to them. *names* are the fields that stay.

    Returns whether the messages may hold earlier reasoning.
    """
    reasons = reads = False
    if endpoint in _CHAT_ENDPOINTS:
        model = root.text("model") if "model" in names else None
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
        if "prediction" in names:
            request.prediction(root)
        request.response_format(root)
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


def _converse(ordered: bool, reads: bool, bridge: bool, messages: Array, judge: Judge) -> None:
    Conversation(ordered=ordered, reads_reasoning=reads, bridge=bridge)(messages, judge)


def _result(root: Object, hidden: Surrogates | None, body: bytes, endpoint: str, *, strict: bool) -> Filtered:
    changes = root.document.changes
    model = root.text("model")
    if hidden:
        changes = [change._replace(path=hidden.restore_text(change.path)) for change in changes]
        model = None if model is None else hidden.restore_text(model)
    if strict and (lost := [change.path for change in changes if change.loss == "lost"]):
        raise Refused(
            f"Strict mode: Mistral has no counterpart for {', '.join(lost)}. Leave that out, or turn strict mode off.",
            param=lost[0],
            code="strict",
        )
    base64 = endpoint == "embeddings" and root.text("encoding_format") == "base64"
    facts = Facts(model, root.fields.get("stream") == _TRUE, base64)
    if not root.position.edited and not changes:
        return Filtered(body, (), facts)
    out = encode(root.fields)
    return Filtered(hidden.restore(out) if hidden else out, tuple(changes), facts)


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
