"""Conversations: messages and their chunks, tools, response_format."""

from __future__ import annotations

from collections.abc import Mapping

from mistral_filter.fields.nodes import KEEP, SET, Array, Node, Object, Tagged, Value

__all__ = [
    "CHUNKS_BY_ROLE",
    "DOCUMENT_URL",
    "FILE",
    "FUNCTION_NAME",
    "IMAGE_URL",
    "MESSAGES",
    "RESPONSE_FORMAT",
    "TOOL",
    "TOOL_CALL_ID",
]


TOOL_CALL_ID = "[a-zA-Z0-9]{9}"
"""mistral-common 1.13.1, ``MistralRequestValidatorV3``; the API answers 400 code 3280 to any other form."""

FUNCTION_NAME = "[a-zA-Z0-9_-]{1,64}"
"""mistral-common 1.13.1, ``_validate_function_call``."""

# ------------------------------------------------------------------------------------------------ messages and their chunks

_TEXT = Object({"type": KEEP, "text": SET}, required=("text",))
_REFERENCE = Object({"type": KEEP, "reference_ids": SET}, required=("reference_ids",))
_TOOL_REFERENCE = Object(
    {"type": KEEP, "tool": SET, "title": SET, "url": KEEP, "favicon": KEEP, "description": KEEP}, required=("tool", "title")
)
_THINKING = Object(
    {
        "type": KEEP,
        "thinking": Array(
            Tagged("type", {"text": _TEXT, "tool_reference": _TOOL_REFERENCE, "reference": _REFERENCE}), null=False
        ),
        "signature": KEEP,
        "closed": SET,
    },
    required=("thinking",),
)
IMAGE_URL = Object(
    {
        "type": KEEP,
        "image_url": Object({"url": SET, "detail": Value(choices=("low", "auto", "high"))}, required=("url",), null=False),
    },
    required=("image_url",),
)
DOCUMENT_URL = Object({"type": KEEP, "document_url": SET, "document_name": KEEP}, required=("document_url",))
FILE = Object({"type": KEEP, "file_id": SET}, required=("file_id",))

_CHUNK = Tagged(
    "type",
    {
        "text": _TEXT,
        "image_url": IMAGE_URL,
        "document_url": DOCUMENT_URL,
        "reference": _REFERENCE,
        "file": FILE,
        "thinking": _THINKING,
        "input_audio": Object({"type": KEEP, "input_audio": SET}, required=("input_audio",)),
        "resource": Object(
            {"type": KEEP, "uri": SET, "content": Tagged("type", {"text": _TEXT, "image_url": IMAGE_URL})},
            required=("uri", "content"),
        ),
        "resource_link": Object({"type": KEEP, "uri": SET, "metadata": KEEP}, required=("uri",)),
    },
)

CHUNKS_BY_ROLE: Mapping[str, frozenset[str]] = {
    "system": frozenset(("text", "thinking")),
    "user": frozenset(_CHUNK.variants) - {"thinking"},
    "assistant": frozenset(("text", "thinking", "reference")),
    "tool": frozenset(("text", "image_url")),
}
"""The chunk types that a message of each role may hold. mistral-common 1.13.1: ``_allowed_content_chunks``, and for tools
``_validate_tool_content_chunks`` of all models before tokenizer v15; an image in a tool's message is taken nevertheless (16
recorded 200s, 2025-08 to 2026-06). ``reference``, which it does not know, is what answers
with citations hold (OpenAPI 2026-08-21, AssistantMessage) and what clients feed back."""

_MESSAGE = Tagged(
    "role",
    {
        "system": Object(
            {"role": KEEP, "content": Array(Tagged("type", {"text": _TEXT, "thinking": _THINKING}), null=False)},
            required=("content",),
        ),
        "user": Object({"role": KEEP, "content": Array(_CHUNK)}, required=("content",)),
        "assistant": Object(
            {
                "role": KEEP,
                "content": Array(_CHUNK),
                "tool_calls": Array(
                    Object(
                        {
                            "id": SET,
                            "type": SET,
                            "index": SET,
                            "function": Object({"name": SET, "arguments": SET}, required=("name", "arguments"), null=False),
                        },
                        required=("function",),
                    )
                ),
                "prefix": SET,
            }
        ),
        "tool": Object({"role": KEEP, "content": Array(_CHUNK), "tool_call_id": KEEP, "name": KEEP}, required=("content",)),
    },
)
MESSAGES = Array(_MESSAGE, null=False)
"""A conversation, wherever it stands in a body."""

# --------------------------------------------------------------------------------------------------- tools, response_format

_TOOL_CONFIGURATION = Object({"exclude": KEEP, "include": KEEP, "requires_confirmation": KEEP})
_CONNECTOR_TOOL = Object({"type": KEEP, "tool_configuration": _TOOL_CONFIGURATION})
TOOL = Tagged(
    "type",
    {
        "function": Object(
            {
                "type": KEEP,
                "function": Object(
                    {"name": SET, "description": SET, "strict": SET, "parameters": SET},
                    required=("name", "parameters"),
                    null=False,
                ),
            },
            required=("function",),
        ),
        "web_search": _CONNECTOR_TOOL,
        "web_search_premium": _CONNECTOR_TOOL,
        "code_interpreter": _CONNECTOR_TOOL,
        "image_generation": _CONNECTOR_TOOL,
        "document_library": Object(
            {"type": KEEP, "library_ids": SET, "tool_configuration": _TOOL_CONFIGURATION}, required=("library_ids",)
        ),
        "connector": Object(
            {
                "type": KEEP,
                "connector_id": SET,
                "authorization": Object({"type": KEEP, "value": SET}, required=("value",)),
                "tool_configuration": _TOOL_CONFIGURATION,
            },
            required=("connector_id",),
        ),
    },
    default="function",  # 93 recorded requests with tools without a type were accepted (2025-04 to 2026-02)
)
RESPONSE_FORMAT: Mapping[str, Node] = {
    "type": Value(null=False, choices=("text", "json_object", "json_schema")),
    "json_schema": Object({"name": SET, "description": KEEP, "schema": SET, "strict": SET}, required=("name", "schema")),
}
