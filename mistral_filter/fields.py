"""What each endpoint of Mistral's API accepts, as data.

Sources: the official SDK ``mistralai`` 3.7.0 (read 2026-11-23) for names and nullability, Mistral's OpenAPI document of
2026-08-21 for ranges and for the three tool types that only it lists (web_search, web_search_premium, code_interpreter),
``mistral-common`` 1.13.1 for ``CHUNKS_BY_ROLE``, TOOL_CALL_ID and FUNCTION_NAME. What depends on the model has its sources
beside it. ``make drift`` compares names and words with the newest SDK. Mistral refuses a key that a strict object does not list:
422 ``extra_forbidden``.

A table is a tree of four kinds of node. A JSON value of a kind that its node does not describe (a string where an
``Array`` stands, say) is never judged: the API explains that better than a filter can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = [
    "CHAT_FIELDS",
    "CHUNKS_BY_ROLE",
    "DIMENSIONS",
    "EFFORTS",
    "ENDPOINTS",
    "FUNCTION_NAME",
    "KEEP",
    "MESSAGES",
    "NEUTRAL",
    "REASONING",
    "SET",
    "TOOL_CALL_ID",
    "WITHOUT_EFFECT",
    "Array",
    "Node",
    "Object",
    "Reasoning",
    "Tagged",
    "Value",
]


class Value(NamedTuple):
    """A value whose inside is not judged; what is known of it otherwise."""

    null: bool = True
    """Whether null is accepted."""
    low: float | None = None
    """The smallest number accepted."""
    above: float | None = None
    """Every accepted number is greater than this."""
    high: float | None = None
    """The greatest number accepted."""
    choices: tuple[str, ...] = ()
    """The strings accepted, where the API has a closed list."""


class Object(NamedTuple):
    """An object that refuses keys which ``fields`` does not list."""

    fields: Mapping[str, Node]
    required: tuple[str, ...] = ()
    null: bool = True
    choices: tuple[str, ...] = ()
    """The strings accepted in place of the object."""


class Array(NamedTuple):
    """A list whose items are all judged by one node."""

    items: Node
    null: bool = True


class Tagged(NamedTuple):
    """An object of one of several kinds, told apart by the string under the key ``by``."""

    by: str
    variants: Mapping[str, Object]
    default: str = ""
    """The kind of an object without that key; "": none."""


Node = Value | Object | Array | Tagged

KEEP = Value()
"""Anything is accepted here."""
SET = Value(null=False)
"""Anything but null is accepted here."""

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
_IMAGE_URL = Object(
    {
        "type": KEEP,
        "image_url": Object({"url": SET, "detail": Value(choices=("low", "auto", "high"))}, required=("url",), null=False),
    },
    required=("image_url",),
)
_DOCUMENT_URL = Object({"type": KEEP, "document_url": SET, "document_name": KEEP}, required=("document_url",))
_FILE = Object({"type": KEEP, "file_id": SET}, required=("file_id",))

_CHUNK = Tagged(
    "type",
    {
        "text": _TEXT,
        "image_url": _IMAGE_URL,
        "document_url": _DOCUMENT_URL,
        "reference": _REFERENCE,
        "file": _FILE,
        "thinking": _THINKING,
        "input_audio": Object({"type": KEEP, "input_audio": SET}, required=("input_audio",)),
        "resource": Object(
            {"type": KEEP, "uri": SET, "content": Tagged("type", {"text": _TEXT, "image_url": _IMAGE_URL})},
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
_TOOL = Tagged(
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
_RESPONSE_FORMAT_FIELDS: Mapping[str, Node] = {
    "type": Value(null=False, choices=("text", "json_object", "json_schema")),
    "json_schema": Object({"name": SET, "description": KEEP, "schema": SET, "strict": SET}, required=("name", "schema")),
}

# ------------------------------------------------------------------------------------------------------------------- models

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""The words for how much a model shall reason, from the least to the most (mistralai 3.7.0, mistral-common 1.13.1)."""


class Reasoning(NamedTuple):
    """What is known of how some models reason."""

    names: tuple[str, ...]
    """Their names; ``*`` stands for any characters."""
    since: int = 0
    """Of these names, only those that end in this date or a later one, year and month: 2603 is March 2026."""
    before: int = 0
    """Of these names, only those that end in an earlier date."""
    reads: bool = True
    """Whether they reason, and take their earlier reasoning back."""
    efforts: tuple[str, ...] | None = None
    """The words of EFFORTS that they take; (): they refuse the field; None: not known."""

    def includes(self, date: int | None) -> bool:
        """Whether a name that ends in *date* is meant; None: it ends in none."""
        if not self.since and not self.before:
            return True
        return date is not None and date >= max(self.since, _FIRST_DATE) and (not self.before or date < self.before)


_FIRST_DATE = 2301
"""Mistral's first model is of 2023; a smaller number is no date."""
_SWITCH = ("none", "high")

REASONING: tuple[Reasoning, ...] = (
    Reasoning(("magistral*",), efforts=()),
    Reasoning(("zai-glm-5-3",), efforts=("low", "high", "max")),
    Reasoning(("zai-glm*", "mistral-large-4*")),
    Reasoning(("mistral-small-latest", "mistral-small-2603"), efforts=_SWITCH),
    Reasoning(("mistral-medium-latest", "mistral-medium-3-5", "mistral-medium-2604"), efforts=_SWITCH),
    Reasoning(("mistral-small-*",), since=2603),
    Reasoning(("mistral-medium-*",), since=2604),
    Reasoning(
        ("mistral-*", "ministral-*", "codestral-*", "devstral-*", "open-*", "pixtral-*", "voxtral-*"),
        before=2603,
        reads=False,
        efforts=(),
    ),
)
"""The first entry that fits a name counts; of other names nothing is known, and their effort is left as it is.

Which models reason and want their reasoning back: Mistral's documentation of 2026-11, its example ``reasoning_multi_turn``
(client-ts 2.2.5), recorded 200s with thinking chunks (magistral in 2025, mistral-small-latest in 2026-08). The efforts: the
API's 400 code 3051, which names them (mozilla-ai/any-llm#1241 of 2026-08, anomalyco/models.dev#7334 of 2026-09).
mistral-medium-latest is 2604 (2026-11). Models with a tokenizer before v15, which came with mistral-small-2603, refuse the
field (mistral-common 1.13.1, ``MistralRequestValidator``); those are magistral and what has an earlier date."""

DIMENSIONS: Mapping[str, int] = {"mistral-embed": 1024, "mistral-embed-2312": 1024}
"""How many numbers an embedding has, for models that refuse ``output_dimension`` (plastic-labs/honcho#772 of 2026-06 and three
more code bases that leave it out; codestral-embed takes it)."""

# ---------------------------------------------------------------------------------------------------------------- endpoints

_SAMPLING: Mapping[str, Node] = {
    "temperature": Value(low=0, high=1.5),
    "top_p": Value(above=0, high=1),
}
_COMPLETION: Mapping[str, Node] = {
    "max_tokens": Value(low=0),
    "min_tokens": Value(low=0),
    "stream": SET,
    "stop": KEEP,
    "random_seed": Value(low=0),
    "metadata": KEEP,
    "prompt_cache_key": KEEP,
}
_CONVERSATION: Mapping[str, Node] = {
    **_COMPLETION,
    "messages": MESSAGES,
    "response_format": Object(_RESPONSE_FORMAT_FIELDS, null=False),
    "tools": Array(_TOOL),
    "tool_choice": Object(
        {"type": SET, "function": Object({"name": SET}, required=("name",), null=False)},
        required=("function",),
        null=False,
        choices=("auto", "none", "any", "required"),
    ),
    "presence_penalty": Value(low=-2, high=2),
    "frequency_penalty": Value(low=-2, high=2),
    "repetition_penalty": KEEP,
    "top_k": KEEP,
    "logprobs": KEEP,
    "top_logprobs": KEEP,
    "prompt_logprobs": KEEP,
    "top_prompt_logprobs": KEEP,
    "n": Value(low=1),
    "prediction": Object({"type": SET, "content": SET}, null=False),
    "parallel_tool_calls": SET,
    "reasoning_effort": Value(choices=EFFORTS),
    "prompt_mode": Value(choices=("reasoning",)),
    "guardrails": KEEP,
    "service_tier": Value(choices=("auto", "standard_only")),
}
_CLASSIFICATION = Object({"model": SET, "input": SET, "metadata": KEEP}, required=("model", "input"))
_CHAT = Object(
    {"model": SET, **_SAMPLING, **_CONVERSATION, "safe_prompt": SET},
    required=("model", "messages"),
)

ENDPOINTS: Mapping[str, Object] = {
    "chat": _CHAT,
    "agents": Object({**_CONVERSATION, "agent_id": SET}, required=("messages", "agent_id")),
    "fim": Object({"model": SET, "prompt": SET, "suffix": KEEP, **_SAMPLING, **_COMPLETION}, required=("model", "prompt")),
    "embeddings": Object(
        {
            "model": SET,
            "input": SET,
            "metadata": KEEP,
            "output_dimension": Value(above=0),
            "output_dtype": Value(null=False, choices=("float", "int8", "uint8", "binary", "ubinary")),
            "encoding_format": Value(null=False, choices=("float", "base64")),
        },
        required=("model", "input"),
    ),
    "moderations": _CLASSIFICATION,
    "classifications": _CLASSIFICATION,
    "chat/moderations": Object({"model": SET, "input": MESSAGES}, required=("model", "input")),
    "chat/classifications": Object(
        {"model": SET, "input": Object({"messages": MESSAGES}, required=("messages",), null=False)}, required=("model", "input")
    ),
    "ocr": Object(
        {
            "model": KEEP,
            "document": Tagged("type", {"document_url": _DOCUMENT_URL, "image_url": _IMAGE_URL, "file": _FILE}),
            "pages": KEEP,
            "include_image_base64": KEEP,
            "image_limit": KEEP,
            "image_min_size": KEEP,
            "bbox_annotation_format": Object(_RESPONSE_FORMAT_FIELDS),
            "document_annotation_format": Object(_RESPONSE_FORMAT_FIELDS),
            "document_annotation_prompt": KEEP,
            "table_format": Value(choices=("markdown", "html")),
            "extract_header": SET,
            "extract_footer": SET,
            "include_blocks": SET,
            "confidence_scores_granularity": Value(choices=("word", "page", "block")),
        },
        required=("model", "document"),
    ),
}
"""The object that each endpoint accepts; the endpoint's name is its path without /v1 and without a last /completions."""

_CLASSIC = (
    "model messages temperature top_p max_tokens min_tokens stream stop random_seed response_format tools tool_choice safe_prompt"
).split()

CHAT_FIELDS: Mapping[str, Object] = {
    "classic": Object({name: _CHAT.fields[name] for name in _CLASSIC}, required=_CHAT.required),
    "current": _CHAT,
}
"""The two lists for chat/completions: the thirteen fields of the Cloudflare Worker that started this, and all of today's."""

# -------------------------------------------------------------------------------------------- what a dropped field was worth

WITHOUT_EFFECT: Mapping[str, str] = {
    "stream_options": "Mistral sends the usage in its last chunk anyway",
    "user": "a label for the provider's own records",
    "safety_identifier": "a label for the provider's own records",
    "prompt_cache_retention": "how long OpenAI caches a prompt",
    "prompt_cache_options": "how OpenAI caches a prompt",
    "cache_control": "how Anthropic caches a prompt",
    "annotations": "part of an earlier answer that models do not read",
    "parsed": "part of an earlier answer that models do not read",
    "content_chunks": "part of an earlier answer that models do not read",
    "provider_specific_fields": "part of an earlier answer that models do not read",
    "id": "an identifier of the client's own",
    "_index": "a count of the client's own",
}
"""Foreign fields (OpenAI's reference, 2026-11) that do not change the answer, wherever they stand, and why."""

NEUTRAL: Mapping[str, tuple[bytes, ...]] = {
    "frequency_penalty": (b"0", b"0.0"),
    "presence_penalty": (b"0", b"0.0"),
    "repetition_penalty": (b"1", b"1.0"),
    "n": (b"1",),
    "best_of": (b"1",),
    "parallel_tool_calls": (b"true",),
    "logprobs": (b"false",),
    "top_logprobs": (b"0",),
    "echo": (b"false",),
    "store": (b"false",),
    "service_tier": (b'"auto"', b'"default"'),
    "modalities": (b'["text"]',),
    "verbosity": (b'"medium"',),
    "truncation": (b'"disabled"',),
    "thinking": (b'{"type":"disabled"}',),
    "include_reasoning": (b"true",),
    "exclude": (b"false",),
}
"""Values that say what happens without the field: dropping them loses nothing. Sources: OpenAI's, Mistral's and OpenRouter's
references of 2026-11 (``include_reasoning``, and ``exclude`` in ``reasoning``, are OpenRouter's), Anthropic's for ``thinking``.
``reasoning_effort`` is not among them: without it Mistral's models do not reason, and OpenAI's do."""
