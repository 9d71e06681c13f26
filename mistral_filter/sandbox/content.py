"""What the stand-in says, and when it calls a tool: the same for chat completions and for Responses.

The text is fixed and says that no model was asked; nothing of the request is repeated, since an agent might take an echo for an
order. A tool is called in two cases only:

- ``tool_choice`` forces it: the function that it names, or where it names none (``any``, ``required``) the functions that the
  user asks for, else the first one. A function that was called since the user's last message is not forced again, although a
  model would be, so that no client runs in a circle.
- The last message is the user's and asks for it in so many words: ``call``, ``use`` or ``run``, perhaps ``the``, ``tool`` or
  ``function``, then the name, alone or in quotes or backticks. ``call weather`` and ``Use the tool "weather".`` do, and so do
  these words in Chinese; ``do not call weather`` does not.

The arguments are the JSON object right behind the name, as in ``call weather {"city": "Paris"}``; without one they are the
smallest that the function's schema allows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["NO_MODEL", "RESULT_CAME", "THOUGHT", "Call", "Function", "calls", "dump", "pieces", "sample", "text"]

Json = dict[str, Any]

NO_MODEL = "This is the mistral-filter sandbox: no model was asked."
RESULT_CAME = f"{NO_MODEL} The result of the tool has arrived."
THOUGHT = ("Nothing was thought: ", "this is the sandbox.")

MAX_CALLS = 16
"""Calls in one answer."""
_WORD = "sandbox"
"""The text of an argument that is not given. As a shell command it does nothing."""
_DEPTH, _STEPS = 12, 10_000
"""Levels and parts of a schema that are looked at: one that refers to itself has no end."""
_LOOKED_AT = 20_000
"""Characters at the end of the user's message in which a call may be asked for."""
_VERB = r"(?:\b(?:call|use|run)\s+(?:the\s+)?(?:(?:tool|function)\s+)?|(?:调用|使用|运行|执行|用)\s*(?:工具|函数)?\s*)"
_REFUSED = re.compile(r"(?:\bnot|n['\u2019]t|\bnever|\bwithout|不|不要|不能|别|勿|没有?|禁止)\s*$", re.IGNORECASE)
"""Right before the verb: the call is not wanted."""


class Function(NamedTuple):
    """A function that the request offers."""

    name: str
    parameters: Any
    """Its JSON schema, unchecked."""
    namespace: str | None = None
    """The namespace tool that holds it, in a Responses request."""


class Call(NamedTuple):
    """A function with its arguments, a JSON text."""

    function: Function
    arguments: str


def calls(functions: Sequence[Function], choice: str, name: str | None, user: str | None, called: Collection[str]) -> list[Call]:
    """The functions to call now, none where the answer is a text.

    *choice* is ``none``, ``auto``, ``any`` or ``required``; *name* the function that it names. *user* is the text of the last
    message, None where that is not the user's; *called* the names of the functions called since the user's last message.
    """
    if choice == "none":
        return []
    offered = [function for function in functions if name in (None, function.name)]
    asked = _asked(offered, user or "")
    if asked or choice == "auto":
        return asked
    return [Call(function, _arguments(function)) for function in offered if function.name not in called][:1]


def text(wanted: object, schema: object, after_tool: bool) -> str:
    """The text of an answer: *wanted* is the type of the response format, *schema* its JSON schema."""
    if wanted == "json_schema":
        return sample(schema)
    if wanted == "json_object":
        return dump({"sandbox": NO_MODEL}).decode()
    return RESULT_CAME if after_tool else NO_MODEL


def pieces(whole: str) -> list[str]:
    """A text in the pieces of a stream, a word each."""
    return re.findall(r"\S+\s*|\s+", whole)


def dump(value: object) -> bytes:
    """JSON in raw UTF-8 as Mistral sends it, U+2028 included; half an emoji, legal in a request, has none and becomes "?"."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def sample(schema: object) -> str:
    """JSON text of the smallest value for a schema; ``{}`` for a schema that is none."""
    try:
        return dump(_sample(schema, schema, _DEPTH, iter(range(_STEPS)))).decode()
    except (AttributeError, LookupError, TypeError, ValueError):
        return "{}"


def _asked(functions: Sequence[Function], user: str) -> list[Call]:
    found: list[tuple[int, Call]] = []
    user = user[-_LOOKED_AT:]
    for function in functions:
        name = rf"([\"'`]?){re.escape(function.name)}\1|“{re.escape(function.name)}”"
        for match in re.finditer(rf"{_VERB}(?:{name})(?![A-Za-z0-9_-])\s*", user, re.IGNORECASE):
            if not _REFUSED.search(user, max(match.start() - 20, 0), match.start()):
                found.append((match.start(), Call(function, _given(user, match.end()) or _arguments(function))))
                break
    return [call for _, call in sorted(found, key=lambda one: one[0])][:MAX_CALLS]


def _given(user: str, at: int) -> str:
    """The JSON object that stands at this place of the message, "" where there is none."""
    try:
        value, _ = json.JSONDecoder().raw_decode(user, at) if user.startswith("{", at) else (None, 0)
    except (ValueError, RecursionError):
        return ""
    return "" if value is None else dump(value).decode()


def _arguments(function: Function) -> str:
    schema = function.parameters
    return sample({"type": "object", **schema} if isinstance(schema, dict) else {"type": "object"})


def _sample(schema: Any, root: Any, depth: int, steps: Iterator[int]) -> Any:
    """Required properties only. Patterns and formats are not honoured; *depth* and *steps* end a schema that holds itself."""
    if not depth or next(steps, None) is None or not isinstance(schema, dict):
        return None
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return _sample(target, root, depth - 1, steps)
    if found := [schema[key] for key in ("const", "default") if key in schema] or schema.get("enum"):
        return found[0]
    if union := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return _sample(union[0], root, depth - 1, steps)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: _sample(fields.get(name, {}), root, depth - 1, steps) for name in schema.get("required", ())}
    if kind == "array":
        return [_sample(schema.get("items"), root, depth - 1, steps)] * min(schema.get("minItems", 0), 16)
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"boolean": False, "null": None}.get(kind, _WORD[: schema.get("maxLength")])
