"""The endpoints: what each accepts at the top of a body."""

from __future__ import annotations

from collections.abc import Mapping

from mistral_filter.fields.chat import DOCUMENT_URL, FILE, IMAGE_URL, MESSAGES, RESPONSE_FORMAT, TOOL
from mistral_filter.fields.models import EFFORTS
from mistral_filter.fields.nodes import KEEP, SET, Array, Node, Object, Tagged, Value
from mistral_filter.fields.responses import RESPONSES

__all__ = ["CHAT_FIELDS", "ENDPOINTS"]


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
    "response_format": Object(RESPONSE_FORMAT, null=False),
    "tools": Array(TOOL),
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
            "document": Tagged("type", {"document_url": DOCUMENT_URL, "image_url": IMAGE_URL, "file": FILE}),
            "pages": KEEP,
            "include_image_base64": KEEP,
            "image_limit": KEEP,
            "image_min_size": KEEP,
            "bbox_annotation_format": Object(RESPONSE_FORMAT),
            "document_annotation_format": Object(RESPONSE_FORMAT),
            "document_annotation_prompt": KEEP,
            "table_format": Value(choices=("markdown", "html")),
            "extract_header": SET,
            "extract_footer": SET,
            "include_blocks": SET,
            "confidence_scores_granularity": Value(choices=("word", "page", "block")),
        },
        required=("model", "document"),
    ),
    **RESPONSES,
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
