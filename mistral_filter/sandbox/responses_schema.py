"""422 for Responses: what the official SDK's ``CreateResponseRequest`` refuses once unknown keys are forbidden.

The table states the models of ``mistralai`` 3.7.0 (read 2026-11-27) by itself, apart from the filter's own table, and the tests
compare it with the SDK. As everywhere in that SDK, null is refused for what is only optional there. The ranges of temperature
and top_p are those of chat completions (OpenAPI document of 2026-08-21). Keys under which the SDK allows anything but which a
stateless service cannot serve (``previous_response_id``, ``conversation``, ``prompt``, ``moderation``) are taken with null
only. Whether the service itself refuses unknown keys is not known: no refusal of it was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["RESPONSES", "responses_violations"]

Loc = tuple[str | int, ...]
Found = Iterator[tuple[str, str, Loc, Any]]
"""pydantic's name for an error, its sentence, where, and the value."""


class Is(NamedTuple):
    """A value of a kind: string, integer, number, boolean, object, strings (an object of them), any, or null alone."""

    kind: str
    null: bool = False
    words: tuple[object, ...] = ()
    """The values that are taken, where there is a closed list."""
    low: float | None = None
    above: float | None = None
    high: float | None = None


class List(NamedTuple):
    """A list of items of one kind."""

    items: Node
    null: bool = False


class Model(NamedTuple):
    """An object that takes the keys of ``fields`` only; a key that ends in ``!`` is required."""

    name: str
    fields: Mapping[str, Node]
    null: bool = False


class Union(NamedTuple):
    """One of several: by the string under the key ``by``, or the first that fits where ``by`` is empty."""

    members: tuple[Node, ...]
    by: str = ""
    null: bool = False


Node = Is | List | Model | Union

_STRING, _INTEGER, _BOOLEAN, _OBJECT = Is("string"), Is("integer"), Is("boolean"), Is("object")
_STRING_OR_NULL, _INTEGER_OR_NULL, _BOOLEAN_OR_NULL = Is("string", null=True), Is("integer", null=True), Is("boolean", null=True)
_NOTHING = Is("null", null=True)


def _one_of(words: str, null: bool = False) -> Is:
    return Is("string", null, tuple(words.split()))


def _const(word: str) -> Is:
    return Is("string", words=(word,))


_STATUS = "in_progress completed incomplete"
_BREAKPOINT = Model("ResponsesPromptCacheBreakpoint", {"mode": _const("explicit")}, null=True)


def _input_parts(suffix: str, detail: str, detail_null: bool) -> Union:
    text: Mapping[str, Node] = {"type": _const("input_text"), "text!": _STRING, "prompt_cache_breakpoint": _BREAKPOINT}
    image: Mapping[str, Node] = {
        "type": _const("input_image"),
        detail: _one_of("low high auto original", detail_null),
        "file_id": _STRING_OR_NULL,
        "image_url": _STRING_OR_NULL,
        "prompt_cache_breakpoint": _BREAKPOINT,
    }
    file: Mapping[str, Node] = {
        "type": _const("input_file"),
        "detail": _one_of("auto low high", null=True),
        "file_data": _STRING_OR_NULL,
        "file_id": _STRING_OR_NULL,
        "file_url": _STRING_OR_NULL,
        "filename": _STRING_OR_NULL,
        "prompt_cache_breakpoint": _BREAKPOINT,
    }
    kinds = {"Text": text, "Image": image, "File": file}
    return Union(tuple(Model(f"ResponsesInput{name}{suffix}", fields) for name, fields in kinds.items()), by="type")


_PARTS = _input_parts("", "detail!", detail_null=False)
_RESULT_PARTS = _input_parts("Content", "detail", detail_null=True)
_TOKEN: Mapping[str, Node] = {"token!": _STRING, "bytes!": List(_INTEGER), "logprob!": Is("number")}
_LOGPROBS = List(
    Model("ResponsesOutputTextLogprob", {**_TOKEN, "top_logprobs!": List(Model("ResponsesTopLogprob", _TOKEN))}), null=True
)
_ANNOTATIONS: Mapping[str, Mapping[str, Node]] = {
    "file_citation": {"file_id!": _STRING, "filename!": _STRING, "index!": _INTEGER},
    "url_citation": {"end_index!": _INTEGER, "start_index!": _INTEGER, "title!": _STRING, "url!": _STRING},
    "container_file_citation": {
        "container_id!": _STRING,
        "end_index!": _INTEGER,
        "file_id!": _STRING,
        "filename!": _STRING,
        "start_index!": _INTEGER,
    },
    "file_path": {"file_id!": _STRING, "index!": _INTEGER},
}
_ANNOTATION = Union(tuple(Model(kind, {"type": _const(kind), **fields}) for kind, fields in _ANNOTATIONS.items()), by="type")
_OUTPUT_TEXT: Mapping[str, Node] = {
    "type": _const("output_text"),
    "text!": _STRING,
    "annotations!": List(_ANNOTATION),
    "logprobs": _LOGPROBS,
}
_CALLER = Union(
    (
        Model("ResponsesCallerDirect", {"type": _const("direct")}),
        Model("ResponsesCallerProgram", {"type": _const("program"), "caller_id!": _STRING}),
    ),
    by="type",
    null=True,
)
_PHASE = _one_of("commentary final_answer", null=True)
_ITEM = Union(
    (
        Model(
            "ResponsesEasyInputMessage",
            {
                "content!": Union((_STRING, List(_PARTS))),
                "role!": _one_of("user assistant system developer"),
                "phase": _PHASE,
                "type": _one_of("message", null=True),
            },
        ),
        Model(
            "ResponsesMessage",
            {
                "content!": List(_PARTS),
                "role!": _one_of("user system developer"),
                "status": _one_of(_STATUS, null=True),
                "type": _one_of("message", null=True),
            },
        ),
        Model(
            "ResponsesOutputMessage",
            {
                "id!": _STRING,
                "content!": List(
                    Union(
                        (
                            Model("ResponsesOutputText", _OUTPUT_TEXT),
                            Model("ResponsesOutputRefusal", {"type": _const("refusal"), "refusal!": _STRING}),
                        ),
                        by="type",
                    )
                ),
                "status!": _one_of(_STATUS),
                "role": _const("assistant"),
                "type": _const("message"),
                "phase": _PHASE,
            },
        ),
        Model(
            "ResponsesFunctionCallOutput",
            {
                "call_id!": _STRING,
                "output!": Union((_STRING, List(_RESULT_PARTS))),
                "type": _const("function_call_output"),
                "id": _STRING_OR_NULL,
                "caller": _CALLER,
                "status": _one_of(_STATUS, null=True),
            },
        ),
        Model(
            "ResponsesReasoningItem",
            {
                "id!": _STRING,
                "summary!": List(Model("ResponsesSummary", {"type": _const("summary_text"), "text!": _STRING})),
                "type": _const("reasoning"),
                "content": List(Model("ResponsesContent", {"type": _const("reasoning_text"), "text!": _STRING}), null=True),
                "encrypted_content": _STRING_OR_NULL,
                "status": _one_of(_STATUS, null=True),
            },
        ),
        Model(
            "ResponsesFunctionToolCall",
            {
                "arguments!": _STRING,
                "call_id!": _STRING,
                "name!": _STRING,
                "type": _const("function_call"),
                "id": _STRING_OR_NULL,
                "caller": _CALLER,
                "namespace": _STRING_OR_NULL,
                "status": _one_of(_STATUS, null=True),
            },
        ),
    )
)
_TOOL_FIELDS: Mapping[str, Node] = {
    "name!": _STRING,
    "allowed_callers": List(_one_of("direct programmatic"), null=True),
    "defer_loading": _BOOLEAN_OR_NULL,
    "description": _STRING_OR_NULL,
}
_FUNCTION_FIELDS: Mapping[str, Node] = {
    **_TOOL_FIELDS,
    "type": _const("function"),
    "strict": _BOOLEAN_OR_NULL,
    "output_schema": Is("object", null=True),
}
_CUSTOM_FORMAT = Union(
    (
        Model("ResponsesText", {"type": _const("text")}),
        Model("ResponsesGrammar", {"type": _const("grammar"), "definition!": _STRING, "syntax!": _one_of("lark regex")}),
    ),
    by="type",
    null=True,
)
_TOOL = Union(
    (
        Model("ResponsesFunctionTool", {**_FUNCTION_FIELDS, "parameters": Is("object", null=True)}),
        Model(
            "ResponsesNamespaceTool",
            {
                "type": _const("namespace"),
                "description!": _STRING,
                "name!": _STRING,
                "tools!": List(
                    Union(
                        (
                            Model("ResponsesToolFunction", {**_FUNCTION_FIELDS, "parameters": Is("any", null=True)}),
                            Model("ResponsesCustomTool", {**_TOOL_FIELDS, "type": _const("custom"), "format": _CUSTOM_FORMAT}),
                        ),
                        by="type",
                    )
                ),
            },
        ),
    ),
    by="type",
)
_FORMAT = Union(
    (
        Model("ResponsesFormatText", {"type": _const("text")}),
        Model(
            "ResponsesFormatTextJSONSchemaConfig",
            {
                "type": _const("json_schema"),
                "name!": _STRING,
                "schema!": _OBJECT,
                "description": _STRING_OR_NULL,
                "strict": _BOOLEAN_OR_NULL,
            },
        ),
        Model("ResponsesFormatJSONObject", {"type": _const("json_object")}),
    ),
    by="type",
    null=True,
)
_COUNTED: Mapping[str, Node] = {
    "model!": _STRING,
    "input!": Union((_STRING, List(_ITEM))),
    "instructions": _STRING_OR_NULL,
    "parallel_tool_calls": _BOOLEAN,
    "previous_response_id": _NOTHING,
    "truncation": _const("disabled"),
    "tools": List(_TOOL),
    "tool_choice": Union(
        (
            Model("ResponsesToolChoiceFunction", {"type": _const("function"), "name!": _STRING}),
            _one_of("none auto required"),
        )
    ),
    "reasoning": Model(
        "ResponsesSupportedReasoning", {"effort": _one_of("none minimal low medium high xhigh max", null=True)}, null=True
    ),
    "conversation": _NOTHING,
    "prompt": _NOTHING,
    "text": Model("ResponsesTextConfig", {"format": _FORMAT, "verbosity": _one_of("low medium high", null=True)}, null=True),
}
RESPONSES: Mapping[str, Model] = {
    "responses": Model(
        "CreateResponseRequest",
        {
            **_COUNTED,
            "background": Is("boolean", words=(False,)),
            "stream": _BOOLEAN,
            "store": Is("boolean", null=True, words=(False,)),
            "max_output_tokens": _INTEGER_OR_NULL,
            "temperature": Is("number", null=True, low=0, high=1.5),
            "top_p": Is("number", null=True, above=0, high=1),
            "metadata": Is("strings", null=True),
            "prompt_cache_key": _STRING_OR_NULL,
            "max_tool_calls": _INTEGER_OR_NULL,
            "moderation": _NOTHING,
            "top_logprobs": Is("integer", null=True, words=(0,)),
        },
    ),
    "responses/input_tokens": Model("CountResponseInputTokensRequest", _COUNTED),
}
"""The request of each endpoint, by its path behind /v1/."""


def responses_violations(body: object, endpoint: str) -> list[dict[str, Any]]:
    """Everything that *endpoint* (a key of RESPONSES) refuses in *body*, all at once, as pydantic's error records.

    In a union without a tag every branch complains, each under its own name; in one with a tag the tag follows the index.
    """
    found = _judge(RESPONSES[endpoint], body, ("body",))
    return [{"type": kind, "loc": list(loc), "msg": msg, "input": value} for kind, msg, loc, value in found]


_KINDS: Mapping[str, tuple[tuple[type, ...], str, str]] = {
    "string": ((str,), "string_type", "Input should be a valid string"),
    "integer": ((int,), "int_type", "Input should be a valid integer"),
    "number": ((int, float), "float_type", "Input should be a valid number"),
    "boolean": ((bool,), "bool_type", "Input should be a valid boolean"),
    "object": ((dict,), "dict_type", "Input should be a valid dictionary"),
    "strings": ((dict,), "dict_type", "Input should be a valid dictionary"),
    "any": ((object,), "", ""),
    "null": ((), "none_required", "Input should be None"),
}


def _judge(node: Node, value: Any, loc: Loc) -> Found:
    if value is None and node.null:
        return
    if isinstance(node, Is):
        yield from _judge_value(node, value, loc)
    elif isinstance(node, List):
        if not isinstance(value, list):
            yield "list_type", "Input should be a valid list", loc, value
            return
        for i, item in enumerate(value):
            yield from _judge(node.items, item, (*loc, i))
    elif isinstance(node, Model):
        yield from _judge_model(node, value, loc)
    elif node.by:
        yield from _judge_tagged(node, value, loc)
    else:
        yield from _judge_branches(node, value, loc)


def _judge_value(node: Is, value: Any, loc: Loc) -> Found:
    types, kind, sentence = _KINDS[node.kind]
    whole = node.kind == "integer" and isinstance(value, float) and value.is_integer()
    fits = whole or (isinstance(value, types) and (node.kind in ("boolean", "any") or not isinstance(value, bool)))
    if node.words:
        if not fits or value not in node.words:
            words = " or ".join(", ".join(map(repr, node.words)).rsplit(", ", 1))
            yield "literal_error", f"Input should be {words}", loc, value
    elif not fits:
        yield kind, sentence, loc, value
    elif node.low is not None and value < node.low:
        yield "greater_than_equal", f"Input should be greater than or equal to {node.low:g}", loc, value
    elif node.above is not None and value <= node.above:
        yield "greater_than", f"Input should be greater than {node.above:g}", loc, value
    elif node.high is not None and value > node.high:
        yield "less_than_equal", f"Input should be less than or equal to {node.high:g}", loc, value
    elif node.kind == "strings":
        for name, part in value.items():
            yield from _judge_value(_STRING, part, (*loc, name))


def _judge_model(node: Model, value: Any, loc: Loc) -> Found:
    if not isinstance(value, dict):
        yield "model_attributes_type", "Input should be a valid dictionary or object to extract fields from", loc, value
        return
    fields = {name.rstrip("!"): part for name, part in node.fields.items()}
    for name in node.fields:
        if name.endswith("!") and name[:-1] not in value:
            yield "missing", "Field required", (*loc, name[:-1]), value
    for name, part in value.items():
        if name in fields:
            yield from _judge(fields[name], part, (*loc, name))
        else:
            yield "extra_forbidden", "Extra inputs are not permitted", (*loc, name), part


def _judge_tagged(node: Union, value: Any, loc: Loc) -> Found:
    members = {_tag(member, node.by): member for member in node.members}
    if not isinstance(value, dict):
        yield from _judge_model(Model("", {}), value, loc)
    elif node.by not in value:
        yield "union_tag_not_found", f"Unable to extract tag using discriminator '{node.by}'", loc, value
    elif not isinstance(tag := value[node.by], str) or tag not in members:
        expected = ", ".join(f"'{name}'" for name in members)
        found = f"Input tag '{tag}' found using '{node.by}' does not match any of the expected tags: {expected}"
        yield "union_tag_invalid", found, loc, value
    else:
        yield from _judge(members[tag], value, (*loc, tag))


def _judge_branches(node: Union, value: Any, loc: Loc) -> Found:
    found = []
    for member in node.members:
        mine = list(_judge(member, value, (*loc, _label(member))))
        if not mine:
            return
        found += mine
    yield from found


def _tag(member: Node, by: str) -> str:
    assert isinstance(member, Model)
    tag = member.fields[by]
    assert isinstance(tag, Is)
    return str(tag.words[0])


def _label(node: Node) -> str:
    """The name that pydantic gives to a branch of a union."""
    if isinstance(node, Model):
        return node.name
    if isinstance(node, List):
        return f"list[{_label(node.items)}]"
    if isinstance(node, Union):
        return f"{'tagged-' if node.by else ''}union[{','.join(map(_label, node.members))}]"
    return f"literal[{','.join(map(repr, node.words))}]" if node.words else {"string": "str"}.get(node.kind, node.kind)
