"""The independent judge: would Mistral accept this body?  Answered from Mistral's own packages, never from our tables.

``accepts`` reads the annotations of the official SDK's pydantic models (``mistralai.client.models``, read 2026-11-23 in
3.7.0) and walks the body along them. The models as they stand would be too kind: they ignore unknown keys, take null for
every ``Optional``, and keep a chunk of unknown type or an unrecognised word for later (``UnknownContentChunk``,
``UnrecognizedStr``). The API does none of that, so neither does the walk.

``common_accepts`` asks ``mistral_common`` (PyPI, 1.13.1), the validator behind the API's 400 answers: the order of roles, the
ids of tool calls, and that calls and results pair.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import pydantic
from mistralai.client import models

Json = Any
Model = type[pydantic.BaseModel]

MODELS: Mapping[str, Model] = {
    "chat": models.ChatCompletionRequest,
    "agents": models.AgentsCompletionRequest,
    "fim": models.FIMCompletionRequest,
    "embeddings": models.EmbeddingRequest,
    "moderations": models.ClassificationRequest,
    "classifications": models.ClassificationRequest,
    "chat/moderations": models.ChatModerationRequest,
    "chat/classifications": models.ChatClassificationRequest,
    "ocr": models.OCRRequest,
}
STREAMED: Mapping[str, Model] = {
    "chat": models.ChatCompletionStreamRequest,
    "agents": models.AgentsCompletionStreamRequest,
    "fim": models.FIMCompletionStreamRequest,
}
"""The same requests again, with another default for ``stream``."""

OPEN = ("GuardrailConfig", "ModerationLl")
"""How the names of models that take further keys begin: the OpenAPI document of 2026-08-21 closes every object but these."""

ALSO_TOOLS: Mapping[str, Model] = {
    "web_search": models.WebSearchTool,
    "web_search_premium": models.WebSearchPremiumTool,
    "code_interpreter": models.CodeInterpreterTool,
}
"""Tools that the OpenAPI document of 2026-08-21 lists for chat and agents and that SDK 3.7.0 only has elsewhere."""

ALSO_OBJECTS = ("input_audio",)
"""Objects that the API takes where the SDK has a string only (recorded 200s, voxtral-small, 2026-08)."""

RANGES: Mapping[str, Callable[[float], bool]] = {
    "temperature": lambda x: 0 <= x <= 1.5,
    "top_p": lambda x: 0 < x <= 1,
    "max_tokens": lambda x: x >= 0,
    "min_tokens": lambda x: x >= 0,
    "random_seed": lambda x: x >= 0,
    "presence_penalty": lambda x: -2 <= x <= 2,
    "frequency_penalty": lambda x: -2 <= x <= 2,
    "n": lambda x: x >= 1,
    "output_dimension": lambda x: x > 0,
}
"""What the SDK does not say: the numbers in the OpenAPI document of 2026-08-21 (min_tokens: as in its FIM request)."""


class Shape(NamedTuple):
    """What one place in a body may hold. A union is one shape with several parts."""

    null: bool = False
    scalars: frozenset[str] = frozenset()
    """Among string, integer, number, boolean."""
    choices: frozenset[str] = frozenset()
    """Single strings accepted where ``scalars`` does not hold them all."""
    items: Shape | None = None
    """Of a list."""
    variants: Mapping[str, Model] = {}
    """Of an object, by its tag; under "" where the object has none."""
    tagged: bool = False
    """Whether the tag must be there: a discriminated union, not one that is tried member by member."""
    free: bool = False
    """Any object is accepted."""


class Field(NamedTuple):
    shape: Shape
    required: bool


# ------------------------------------------------------------------------------------------------------ reading the models

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def shape_of(annotation: Any) -> Shape:
    """Read a type annotation. One of a kind not met before is an error: drift must not go by in silence."""
    origin, args = get_origin(annotation), get_args(annotation)
    if getattr(origin, "__name__", "") in ("Nullable", "OptionalNullable"):
        # The SDK writes null in the type where the API takes it; the None of a plain Optional only means "may be left out".
        return shape_of(args[0])._replace(null=True)
    if origin is Annotated:
        return _discriminated(shape_of(args[0]), args[1:])
    if hasattr(annotation, "__value__"):
        return shape_of(annotation.__value__)
    if origin in (Union, types.UnionType):
        return _union(shape_of(member) for member in args if not _is_fallback(member))
    if origin is Literal:
        return Shape(choices=frozenset(args))
    if origin is list:
        return Shape(items=shape_of(args[0]))
    if origin is dict:
        return Shape(free=True)
    if annotation is Any:
        return Shape(null=True, free=True, scalars=frozenset(_SCALARS.values()))
    if annotation in _SCALARS:
        return Shape(scalars=frozenset({_SCALARS[annotation]}))
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return Shape(variants={_tag_of(annotation)[1]: annotation})
    raise TypeError(f"the SDK has a kind of annotation that this reader does not know: {annotation!r}")


def _union(members: Iterable[Shape]) -> Shape:
    whole = Shape()
    for one in members:
        items = [part for part in (whole.items, one.items) if part is not None]
        whole = Shape(
            null=whole.null or one.null,
            scalars=whole.scalars | one.scalars,
            choices=whole.choices | one.choices,
            items=_union(items) if items else None,
            variants={**whole.variants, **one.variants},
            tagged=whole.tagged or one.tagged,
            free=whole.free or one.free,
        )
    return whole


def _discriminated(shape: Shape, metadata: Iterable[object]) -> Shape:
    marks = (pydantic.Discriminator, pydantic.BeforeValidator)
    return shape._replace(tagged=True) if any(isinstance(mark, marks) for mark in metadata) else shape


def _is_fallback(member: Any) -> bool:
    """Whether a member of a union is there only for what a newer API may answer, or for None."""
    return member is type(None) or getattr(member, "__name__", "").startswith(("Unrecognized", "Unknown"))


def _tag_of(model: Model) -> tuple[str, str]:
    """The key that tells a model from its siblings, and its value; empty strings where there is none."""
    for key in ("role", "type"):
        if key in model.model_fields:
            choices = shape_of(model.model_fields[key].annotation).choices
            if len(choices) == 1:
                return key, next(iter(choices))
    return "", ""


def tag_key(shape: Shape) -> str:
    """The key that tells the variants of a shape apart, "" where there is one only."""
    return _tag_of(next(iter(shape.variants.values())))[0] if len(shape.variants) > 1 else ""


@cache
def fields_of(model: Model) -> Mapping[str, Field]:
    """The fields of a model under the names that they have in JSON."""
    found = {}
    for name, info in model.model_fields.items():
        shape = _discriminated(shape_of(info.annotation), (*info.metadata, info.discriminator))
        found[info.alias or name] = Field(shape, info.is_required())
    return found


def is_open(model: Model) -> bool:
    return model.__name__.startswith(OPEN)


def tree(endpoint: str) -> dict[str, Any]:
    """The names that the SDK's request has, nested: None for a plain value, a list around what a list holds, an object's
    variants under their tags."""
    return _tree_of_model({**MODELS, **RESPONSES}[endpoint])


def _tree_of_model(model: Model) -> dict[str, Any]:
    return {name: _tree_of_shape(field.shape) for name, field in fields_of(model).items()}


def _tree_of_shape(shape: Shape) -> Any:
    if shape.items is not None:
        return [_tree_of_shape(shape.items)]
    if len(shape.variants) > 1:
        return {tag: _tree_of_model(model) for tag, model in shape.variants.items()}
    return next((_tree_of_model(model) for model in shape.variants.values()), None)


# ------------------------------------------------------------------------------------------------------------- the judgement


def accepts(endpoint: str, body: dict[str, Json]) -> list[str]:
    """The reasons why the API would refuse the body with a 422, by the SDK's models and RANGES; none when it would not."""
    if endpoint in RESPONSES:
        return responses_accept(endpoint, body)
    reasons = list(_object_refusals(MODELS[endpoint], body, ""))
    for name, fits in RANGES.items():
        value = body.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not fits(value):
            reasons.append(f"{name}: {value} is out of range")
    # Not in any document; seen in the API's answers.
    return [*reasons, "stop: an empty list"] if body.get("stop") == [] else reasons


def _object_refusals(model: Model, value: Mapping[str, Json], where: str) -> Iterator[str]:
    fields = fields_of(model)
    for name, field in fields.items():
        if field.required and name not in value:
            yield f"{where}{name}: missing"
    for name, inner in value.items():
        if name in fields:
            yield from _refusals(fields[name].shape, inner, where + name)
        elif not is_open(model):
            yield f"{where}{name}: not permitted"


def _refusals(shape: Shape, value: Json, where: str) -> Iterator[str]:
    if value is None:
        if not shape.null:
            yield f"{where}: null"
    elif isinstance(value, dict) and where.rpartition(".")[2] in ALSO_OBJECTS:
        return
    elif isinstance(value, dict):
        if not shape.free:
            yield from _variant_refusals(shape, value, where)
    elif isinstance(value, list):
        if shape.items is None:
            yield f"{where}: a list is not accepted"
            return
        for i, item in enumerate(value):
            yield from _refusals(shape.items, item, f"{where}[{i}]")
    elif not (_kinds(value) & shape.scalars or (isinstance(value, str) and value in shape.choices)):
        yield f"{where}: {value!r:.60} is not accepted"


def _kinds(value: str | float) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, str):
        return {"string"}
    return {"number", "integer"} if isinstance(value, int) or value.is_integer() else {"number"}


def _variant_refusals(shape: Shape, value: Mapping[str, Json], where: str) -> Iterator[str]:
    key = tag_key(shape)
    if not key:
        (model,) = shape.variants.values() or (None,)
        yield from _object_refusals(model, value, f"{where}.") if model else [f"{where}: an object is not accepted"]
    elif key in value:
        # The service tells tools apart by type (OpenAPI of 2026-08-21), also where the SDK has a plain union.
        known = {**ALSO_TOOLS, **shape.variants} if where.startswith("tools[") else shape.variants
        tag = value[key]
        if isinstance(tag, str) and tag in known:
            yield from _object_refusals(known[tag], value, f"{where}.")
        else:
            yield f"{where}.{key}: {tag!r:.60} is not one of {', '.join(sorted(known))}"
    elif where.startswith("tools["):
        # 93 recorded requests with tools without a type were accepted (2025-04 to 2026-02)
        yield from _object_refusals(shape.variants["function"], value, f"{where}.")
    elif shape.tagged:
        yield f"{where}.{key}: missing"
    else:
        attempts = [list(_object_refusals(model, value, f"{where}.")) for model in shape.variants.values()]
        yield from min(attempts, key=len)


# ------------------------------------------------------------------------------------------------------------ mistral_common

_MODELLED = frozenset(("role", "content", "tool_calls", "prefix", "tool_call_id", "name"))
_MEDIA = ("document_url", "file", "resource", "resource_link")


def common_accepts(body: dict[str, Json]) -> list[str]:
    """The reason why the API would refuse the chat body with a 400; an empty list when it would not.

    mistral-common's MistralRequestValidatorV11 in serving mode: the newest that wants ids of nine letters or digits (V13 and
    V15 take any). It lets a user message follow a tool message. Only messages and function tools are given to it: its models
    know less than the API does (see ``_message`` and ``_chunk``). The empty assistant message is judged here, as V3 does and
    the API too (400, code 3240): V5 and later leave it to the tokenizer.
    """
    # Late, so that the check for drift needs only mistralai; and mistral_common wants Python 3.11.
    from mistral_common.exceptions import MistralCommonException
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.protocol.instruct.validator import MistralRequestValidatorV11, ValidationMode

    messages = [_message(message) for message in body.get("messages") or ()]
    tools = [tool for tool in body.get("tools") or () if tool.get("type", "function") == "function"]
    try:
        request: ChatCompletionRequest[Any] = ChatCompletionRequest(
            model=body.get("model") or "any", messages=messages, tools=tools or None
        )
        MistralRequestValidatorV11(ValidationMode("serving")).validate_request(request)
    except pydantic.ValidationError as error:
        return [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    except (MistralCommonException, ValueError) as error:
        return [str(error)]
    empty = [
        f"messages[{i}]: assistant message with neither content nor tool_calls"
        for i, message in enumerate(messages)
        if message.get("role") == "assistant" and not message.get("content") and not message.get("tool_calls")
    ]
    return [*empty, *greedy_refusals(body)]


def greedy_refusals(body: dict[str, Json]) -> list[str]:
    """The API's 400 code 3054: at temperature 0 ``top_p`` must be 1, and given if the request asks for reasoning (reports of
    2024-11 to 2026-08)."""
    effort = body.get("reasoning_effort")
    reasons = (isinstance(effort, str) and effort != "none") or body.get("prompt_mode") == "reasoning"
    temperature, top_p = body.get("temperature"), body.get("top_p")
    if isinstance(temperature, bool) or temperature != 0 or isinstance(top_p, (bool, str, list, dict)):
        return []
    return ["top_p must be 1 when using greedy sampling"] if top_p != 1 and (reasons or top_p is not None) else []


def _message(message: Mapping[str, Json]) -> dict[str, Json]:
    """A message without what the validator does not model: further keys (``accepts`` judges those), ``tool_calls[].index``,
    a null in ``content`` of user and tool, which the API's schema allows."""
    kept = {key: value for key, value in message.items() if key in _MODELLED}
    if isinstance(kept.get("content"), list):
        chunks = kept["content"]
        if kept.get("role") == "tool":  # 16 recorded requests with images in a tool's message were accepted (2025-08 to 2026-06)
            chunks = [{"type": "text", "text": "image"} if chunk.get("type") == "image_url" else chunk for chunk in chunks]
        kept["content"] = [_chunk(chunk) for chunk in chunks]
    elif kept.get("role") in ("user", "tool") and "content" in kept:
        kept["content"] = kept["content"] or ""
    if kept.get("tool_calls"):
        kept["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in kept["tool_calls"]]
    return kept


def _chunk(chunk: Json) -> Json:
    """A chunk as the validator models it: documents and files are media as images are; a reference, which the API itself puts
    into its answers, is text; thinking is one string."""
    kind = chunk.get("type") if isinstance(chunk, dict) else None
    if kind in _MEDIA:
        return {"type": "image_url", "image_url": kind}
    if kind == "reference":
        return {"type": "text", "text": kind}
    if kind == "thinking":
        return {"type": kind, "thinking": str(chunk.get("thinking")), "closed": chunk.get("closed", True)}
    return chunk


# ----------------------------------------------------------------------------------------------------------------- responses

RESPONSES: Mapping[str, Model] = {
    "responses": models.CreateResponseRequest,
    "responses/input_tokens": models.CountResponseInputTokensRequest,
}

RESPONSE_INPUT: Mapping[str, Model] = {
    "plain": models.ResponsesEasyInputMessage,
    "input": models.ResponsesMessage,
    "answer": models.ResponsesOutputMessage,
    "function_call": models.ResponsesFunctionToolCall,
    "function_call_output": models.ResponsesFunctionCallOutput,
    "reasoning": models.ResponsesReasoningItem,
}
"""The models of the items, under the names that the tables give them."""


def response_items() -> set[str]:
    """The names of the models that the SDK takes as items."""
    shape = models.CreateResponseRequest.model_fields["input"].annotation
    return {model.__name__ for model in _models_in(shape)}


def _models_in(annotation: Any) -> Iterator[Model]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
        return
    for inner in (annotation.__value__,) if hasattr(annotation, "__value__") else get_args(annotation):
        yield from _models_in(inner)


def responses_accept(endpoint: str, body: dict[str, Json]) -> list[str]:
    """The reasons why the API would refuse a Responses body, by the SDK's model with further keys forbidden at every level.

    The model itself is asked too: its validators hold the constants (``store`` false, ``truncation`` disabled, ...).
    """
    reasons = list(_strict(RESPONSES[endpoint], body, "body", tagged=False))
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not RANGES[name](value):
            reasons.append(f"{name}: {value} is out of range")
    stored = ("previous_response_id", "conversation", "prompt", "moderation")  # null at most (notes on the endpoint, 2026-11)
    reasons += [f"{name}: not null" for name in stored if body.get(name) is not None]
    try:
        RESPONSES[endpoint].model_validate(body)
    except pydantic.ValidationError as error:
        reasons += [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return reasons


def _strict(annotation: Any, value: Json, where: str, *, tagged: bool) -> Iterator[str]:
    """Walk *value* along a type annotation; *tagged*: a union is told apart by ``type``, which has to be there."""
    origin, args = get_origin(annotation), get_args(annotation)
    if getattr(origin, "__name__", "") in ("Nullable", "OptionalNullable"):
        if value is not None:
            yield from _strict(args[0], value, where, tagged=tagged)
    elif origin is Annotated:
        marked = any(isinstance(mark, pydantic.fields.FieldInfo) and mark.discriminator for mark in args[1:])
        yield from _strict(args[0], value, where, tagged=tagged or marked)
    elif hasattr(annotation, "__value__"):
        yield from _strict(annotation.__value__, value, where, tagged=tagged)
    elif origin in (Union, types.UnionType):
        members = [member for member in args if not _is_fallback(member)]
        if tagged and isinstance(value, dict) and "type" not in value:
            yield f"{where}.type: missing"
            return
        reasons = min((list(_strict(member, value, where, tagged=False)) for member in members), key=len)
        if reasons and isinstance(value, dict) and "type" in value and not isinstance(value["type"], str):
            # As in chat, the service tells objects apart by type; without a usable one, no list of keys holds.
            reasons = [f"{where}.type: {value['type']!r:.60} is no string"]
        yield from reasons
    elif origin is Literal:
        if not any(value == arg and type(value) is type(arg) for arg in args):
            yield f"{where}: {value!r:.60} is not one of {args}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{where}: no list"
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from _strict(args[0], item, f"{where}[{index}]", tagged=False)
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{where}: no object"
        for key, item in (value if isinstance(value, dict) else {}).items():
            yield from _strict(args[1], item, f"{where}.{key}", tagged=False)
    elif isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield from _strict_object(annotation, value, where)
    elif annotation is not Any and not (value is not None and _fits(annotation, value)):
        yield f"{where}: {value!r:.60} is no {annotation}"


def _fits(annotation: Any, value: Json) -> bool:
    kinds = set() if isinstance(value, (dict, list)) else _kinds(value)
    return _SCALARS[annotation] in kinds


def _strict_object(model: Model, value: Json, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: no object"
        return
    known = {info.alias or name: info for name, info in model.model_fields.items()}
    for name, info in known.items():
        if name not in value and info.is_required():
            yield f"{where}.{name}: missing"
    for name, inner in value.items():
        if name not in known:
            yield f"{where}.{name}: not permitted"
        else:
            yield from _strict(known[name].annotation, inner, f"{where}.{name}", tagged=bool(known[name].discriminator))
