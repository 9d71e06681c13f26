"""Compare the tables of ``mistral_filter.fields`` with the installed SDK, names and words: ``python tests/tools/drift.py``.

Mistral's list of fields moves (``min_tokens`` left chat in 2024 and came back in SDK 3.2), and a table that lags throws away
what a caller has asked for. Exit status 1 and a line for each difference that EXCEPTIONS does not explain; 0 when there is
none. Needs mistralai, msgspec and the project, nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version

import sdk

from mistral_filter.fields import (
    ENDPOINTS,
    RESPONSE_ITEMS,
    RESPONSE_MESSAGES,
    RESPONSES,
    Array,
    Node,
    Object,
    Tagged,
    Value,
)

_CONVERSATIONS = "the API takes a list of conversations here too; one is judged, a list of them goes on as it came"
EXCEPTIONS: Mapping[str, str] = {
    "tools[web_search]: gone from the SDK": "in the OpenAPI document of 2026-08-21",
    "tools[web_search_premium]: gone from the SDK": "in the OpenAPI document of 2026-08-21",
    "tools[code_interpreter]: gone from the SDK": "in the OpenAPI document of 2026-08-21",
    "guardrails: new keys inside": "an open object: further keys are accepted, so there is nothing to judge",
    "input: a list is accepted too": _CONVERSATIONS,
    "input[]: a list is accepted too": _CONVERSATIONS,
}
"""Differences that are meant, as they read after the endpoint's name, and why."""


def drift(endpoints: Mapping[str, Object] = ENDPOINTS) -> list[str]:
    """The differences between the tables and the SDK, without those that EXCEPTIONS explains."""
    found = [*differences(endpoints), *response_differences(endpoints)]
    return [line for line in found if line.partition(".")[2] not in EXCEPTIONS]


def response_differences(
    endpoints: Mapping[str, Object] = ENDPOINTS,
    messages: Mapping[str, Object] = RESPONSE_MESSAGES,
    items: Mapping[str, Object] = RESPONSE_ITEMS,
) -> Iterator[str]:
    """Compare the tables for the Responses API: its requests but for the input, then every form of an item."""
    for name in sorted((endpoints.keys() & RESPONSES.keys()) ^ sdk.RESPONSES.keys()):
        yield f"{name}: only in the {'tables' if name in endpoints else 'check for drift'}"
    for name in sorted(endpoints.keys() & sdk.RESPONSES.keys()):
        for line in _fields(name, endpoints[name], [sdk.RESPONSES[name]], ""):
            if not line.startswith((f"{name}.input:", f"{name}.input[")):
                yield line
    tables = {**messages, **items}
    for name in sorted(tables.keys() | sdk.RESPONSE_INPUT.keys()):
        if name in tables and name in sdk.RESPONSE_INPUT:
            yield from _fields(f"responses.input[{name}]", tables[name], [sdk.RESPONSE_INPUT[name]], "")
        else:
            yield f"responses.input[{name}]: only in the {'tables' if name in tables else 'check for drift'}"
    for model in sorted(sdk.response_items() - {model.__name__ for model in sdk.RESPONSE_INPUT.values()}):
        yield f"responses.input: {model} is new in the SDK"


def differences(endpoints: Mapping[str, Object]) -> Iterator[str]:
    for name in sorted((endpoints.keys() - RESPONSES.keys()) | sdk.MODELS.keys()):
        if name in endpoints and name in sdk.MODELS:
            yield from _fields(name, endpoints[name], [sdk.MODELS[name]], "")
        else:
            yield f"{name}: only in the {'tables' if name in endpoints else 'check for drift'}"
    for name, model in sdk.STREAMED.items():
        if sdk.fields_of(model) != sdk.fields_of(sdk.MODELS[name]):
            yield f"{name}: {model.__name__} differs from {sdk.MODELS[name].__name__}"


def _fields(path: str, node: Object, models: list[sdk.Model], tag: str) -> Iterator[str]:
    """Compare an object with one model, or with several that the table does not tell apart."""
    theirs = {name: field for model in models for name, field in sdk.fields_of(model).items()}
    for name in sorted(theirs.keys() - node.fields.keys()):
        yield f"{path}.{name}: new in the SDK"
    for name in sorted(node.fields.keys() - theirs.keys()):
        yield f"{path}.{name}: gone from the SDK"
    for name in sorted((node.fields.keys() & theirs.keys()) - {tag}):
        ours, field = node.fields[name], theirs[name]
        if field.required is not (name in node.required):
            yield f"{path}.{name}: {'required' if field.required else 'optional'} in the SDK"
        if not isinstance(ours, Tagged) and field.shape.null is not ours.null:
            yield f"{path}.{name}: null is {'accepted' if field.shape.null else 'refused'} by the SDK"
        yield from _inside(f"{path}.{name}", ours, field.shape)


def _inside(path: str, node: Node, shape: sdk.Shape) -> Iterator[str]:
    if isinstance(node, Value):
        if shape.variants or (shape.items and shape.items.variants):
            yield f"{path}: new keys inside"
        yield from _choices(path, node, shape)
    elif isinstance(node, Array):
        if shape.items is None:
            yield f"{path}: no list in the SDK"
        else:
            yield from _inside(path if isinstance(node.items, Tagged) else f"{path}[]", node.items, shape.items)
    else:
        if shape.items is not None:
            yield f"{path if isinstance(node, Object) else f'{path}[]'}: a list is accepted too"
        if isinstance(node, Object):
            yield from _choices(path, node, shape)
        if not shape.variants:
            yield f"{path}: no object in the SDK"
        elif isinstance(node, Object):
            yield from _fields(path, node, list(shape.variants.values()), sdk.tag_key(shape))
        else:
            yield from _variants(path, node, shape)


def _choices(path: str, node: Value | Object, shape: sdk.Shape) -> Iterator[str]:
    """Compare the words that a value has to be, or that may stand in place of an object."""
    # A single choice is a constant such as type: "content"; beside a plain string, the choices are only examples.
    open_ended = "string" in shape.scalars or (len(shape.choices) == 1 and not node.choices)
    theirs = frozenset() if open_ended else shape.choices
    for word in sorted(theirs - set(node.choices)):
        yield f"{path}={word!r}: new in the SDK"
    for word in sorted(set(node.choices) - theirs):
        yield f"{path}={word!r}: gone from the SDK"


def _variants(path: str, node: Tagged, shape: sdk.Shape) -> Iterator[str]:
    if sdk.tag_key(shape) != node.by:
        yield f"{path}: told apart by {sdk.tag_key(shape)!r} in the SDK"
    for tag in sorted(shape.variants.keys() - node.variants.keys()):
        yield f"{path}[{tag}]: new in the SDK"
    for tag in sorted(node.variants.keys() - shape.variants.keys()):
        yield f"{path}[{tag}]: gone from the SDK"
    for tag in sorted(node.variants.keys() & shape.variants.keys()):
        yield from _fields(f"{path}[{tag}]", node.variants[tag], [shape.variants[tag]], node.by)


def main() -> int:
    found = drift()
    print("\n".join(found) or f"no drift: mistralai {version('mistralai')}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
