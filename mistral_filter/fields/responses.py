"""The Responses API: its requests, its items, and what stands for items that only OpenAI's has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from mistral_filter.fields.models import EFFORTS
from mistral_filter.fields.nodes import KEEP, SET, Array, Node, Object, Tagged, Value

__all__ = [
    "FOREIGN_CALLS",
    "FOREIGN_ITEMS",
    "FOREIGN_RESULTS",
    "RESPONSES",
    "RESPONSE_ANNOTATIONS",
    "RESPONSE_CONSTANTS",
    "RESPONSE_INCLUDED",
    "RESPONSE_INPUT",
    "RESPONSE_ITEMS",
    "RESPONSE_LOGPROBS",
    "RESPONSE_MESSAGES",
    "RESPONSE_PARTS",
    "RESPONSE_TOOLS",
    "Constant",
    "ForeignCall",
    "ForeignResult",
]


_STATUS = Value(choices=("in_progress", "completed", "incomplete"))
_PHASE = Value(choices=("commentary", "final_answer"))
_BREAKPOINT = Object({"mode": Value(null=False, choices=("explicit",))})
_CALLER = Tagged(
    "type", {"direct": Object({"type": SET}), "program": Object({"type": SET, "caller_id": SET}, required=("caller_id",))}
)
_INPUT_TEXT = Object({"type": SET, "text": SET, "prompt_cache_breakpoint": _BREAKPOINT}, required=("text",))
_INPUT_IMAGE: Mapping[str, Node] = {
    "type": SET,
    "image_url": KEEP,
    "file_id": KEEP,
    "prompt_cache_breakpoint": _BREAKPOINT,
}
_IMAGE_DETAILS = ("low", "high", "auto", "original")
_INPUT_FILE = Object(
    {
        "type": SET,
        "detail": Value(choices=("auto", "low", "high")),
        "file_data": KEEP,
        "file_id": KEEP,
        "file_url": KEEP,
        "filename": KEEP,
        "prompt_cache_breakpoint": _BREAKPOINT,
    }
)
RESPONSE_PARTS: Mapping[str, Object] = {
    "input_text": _INPUT_TEXT,
    "input_image": Object(
        {**_INPUT_IMAGE, "detail": Value(null=False, choices=_IMAGE_DETAILS)},
        required=("detail",),
    ),
    "input_file": _INPUT_FILE,
}
"""The content parts of a message to the model, by type."""
_OUTPUT_PARTS: Mapping[str, Object] = {
    "input_text": _INPUT_TEXT,
    "input_image": Object({**_INPUT_IMAGE, "detail": Value(choices=_IMAGE_DETAILS)}),
    "input_file": _INPUT_FILE,
}
RESPONSE_ANNOTATIONS = Tagged(
    "type",
    {
        "file_citation": Object(
            {"type": SET, "file_id": SET, "filename": SET, "index": SET}, required=("file_id", "filename", "index")
        ),
        "url_citation": Object(
            {"type": SET, "end_index": SET, "start_index": SET, "title": SET, "url": SET},
            required=("end_index", "start_index", "title", "url"),
        ),
        "container_file_citation": Object(
            {"type": SET, "container_id": SET, "end_index": SET, "file_id": SET, "filename": SET, "start_index": SET},
            required=("container_id", "end_index", "file_id", "filename", "start_index"),
        ),
        "file_path": Object({"type": SET, "file_id": SET, "index": SET}, required=("file_id", "index")),
    },
)
"""What an earlier answer's text may cite."""
_LOGPROB: Mapping[str, Node] = {"token": SET, "bytes": SET, "logprob": SET}
RESPONSE_LOGPROBS = Object(
    {**_LOGPROB, "top_logprobs": Array(Object(_LOGPROB, required=tuple(_LOGPROB), null=False), null=False)},
    required=(*_LOGPROB, "top_logprobs"),
)
"""One token of an earlier answer."""
_ANSWER_PARTS: Mapping[str, Object] = {
    "output_text": Object(
        {
            "type": SET,
            "text": SET,
            "annotations": Array(RESPONSE_ANNOTATIONS, null=False),
            "logprobs": Array(RESPONSE_LOGPROBS),
        },
        required=("text", "annotations"),
    ),
    "refusal": Object({"type": SET, "refusal": SET}, required=("refusal",)),
}

RESPONSE_MESSAGES: Mapping[str, Object] = {
    "plain": Object(
        {
            "type": Value(choices=("message",)),
            "role": Value(null=False, choices=("user", "assistant", "system", "developer")),
            "content": Array(Tagged("type", RESPONSE_PARTS), null=False),
            "phase": _PHASE,
        },
        required=("role", "content"),
    ),
    "input": Object(
        {
            "type": Value(choices=("message",)),
            "role": Value(null=False, choices=("user", "system", "developer")),
            "content": Array(Tagged("type", RESPONSE_PARTS), null=False),
            "status": _STATUS,
        },
        required=("role", "content"),
    ),
    "answer": Object(
        {
            "type": SET,
            "role": SET,
            "id": SET,
            "content": Array(Tagged("type", _ANSWER_PARTS), null=False),
            "status": _STATUS._replace(null=False),
            "phase": _PHASE,
        },
        required=("id", "content", "status"),
    ),
}
"""The three forms of a message among the items: with a text or parts, with parts and a status, and as the API answered it."""

RESPONSE_ITEMS: Mapping[str, Object] = {
    "function_call": Object(
        {
            "type": SET,
            "id": KEEP,
            "call_id": SET,
            "name": SET,
            "namespace": KEEP,
            "arguments": SET,
            "caller": _CALLER,
            "status": _STATUS,
        },
        required=("call_id", "name", "arguments"),
    ),
    "function_call_output": Object(
        {
            "type": SET,
            "id": KEEP,
            "call_id": SET,
            "output": Array(Tagged("type", _OUTPUT_PARTS), null=False),
            "caller": _CALLER,
            "status": _STATUS,
        },
        required=("call_id", "output"),
    ),
    "reasoning": Object(
        {
            "type": SET,
            "id": SET,
            "summary": Array(Object({"type": SET, "text": SET}, required=("text",)), null=False),
            "content": Array(Object({"type": SET, "text": SET}, required=("text",))),
            "encrypted_content": KEEP,
            "status": _STATUS,
        },
        required=("id", "summary"),
    ),
}
"""The items that are no messages, by type."""

RESPONSE_INPUT = Array(
    Tagged(
        "type",
        {
            # any key and any part that one of the forms has: which form a message has is for ``dialect.response_items``
            "message": Object(
                {
                    **RESPONSE_MESSAGES["answer"].fields,
                    **RESPONSE_MESSAGES["input"].fields,
                    **RESPONSE_MESSAGES["plain"].fields,
                    "content": Array(Tagged("type", {**RESPONSE_PARTS, **_ANSWER_PARTS}), null=False),
                },
                required=("role", "content"),
            ),
            **RESPONSE_ITEMS,
        },
        default="message",
    ),
    null=False,
)
"""The items of a Responses request."""

_RESPONSE_TOOL: Mapping[str, Node] = {
    "type": SET,
    "name": SET,
    "description": KEEP,
    "allowed_callers": KEEP,
    "defer_loading": KEEP,
}
_RESPONSE_FUNCTION = Object(
    {**_RESPONSE_TOOL, "parameters": KEEP, "strict": KEEP, "output_schema": KEEP},
    required=("name",),
)
RESPONSE_TOOLS: Mapping[str, Object] = {
    "function": _RESPONSE_FUNCTION,
    "namespace": Object(
        {
            "type": SET,
            "name": SET,
            "description": SET,
            "tools": Array(
                Tagged(
                    "type",
                    {
                        "function": _RESPONSE_FUNCTION,
                        "custom": Object(
                            {
                                **_RESPONSE_TOOL,
                                "format": Tagged(
                                    "type",
                                    {
                                        "text": Object({"type": SET}),
                                        "grammar": Object(
                                            {
                                                "type": SET,
                                                "definition": SET,
                                                "syntax": Value(null=False, choices=("lark", "regex")),
                                            },
                                            required=("definition", "syntax"),
                                        ),
                                    },
                                ),
                            },
                            required=("name",),
                        ),
                    },
                ),
                null=False,
            ),
        },
        required=("name", "description", "tools"),
    ),
}
"""The tools that the Responses API has, by type."""

_COUNTED: Mapping[str, Node] = {
    "model": SET,
    "input": RESPONSE_INPUT,
    "instructions": KEEP,
    "parallel_tool_calls": SET,
    "previous_response_id": KEEP,
    "truncation": Value(null=False, choices=("disabled",)),
    "tools": Array(Tagged("type", RESPONSE_TOOLS), null=False),
    "tool_choice": Object({"type": SET, "name": SET}, required=("name",), null=False, choices=("none", "auto", "required")),
    "reasoning": Object({"effort": Value(choices=EFFORTS)}),
    "conversation": KEEP,
    "prompt": KEEP,
    "text": Object(
        {
            "format": Tagged(
                "type",
                {
                    "text": Object({"type": SET}),
                    "json_object": Object({"type": SET}),
                    "json_schema": Object(
                        {"type": SET, "name": SET, "schema": SET, "description": KEEP, "strict": KEEP},
                        required=("name", "schema"),
                    ),
                },
            ),
            "verbosity": Value(choices=("low", "medium", "high")),
        }
    ),
}

RESPONSES: Mapping[str, Object] = {
    "responses": Object(
        {
            **_COUNTED,
            "background": SET,
            "stream": SET,
            "store": KEEP,
            "max_output_tokens": Value(low=0),
            "temperature": Value(low=0, high=1.5),
            "top_p": Value(above=0, high=1),
            "metadata": KEEP,
            "prompt_cache_key": KEEP,
            "max_tool_calls": Value(low=0),
            "moderation": KEEP,
            "top_logprobs": KEEP,
        },
        required=("model", "input"),
    ),
    "responses/input_tokens": Object(_COUNTED, required=("model", "input")),
}
"""``CreateResponseRequest`` and ``CountResponseInputTokensRequest`` of the SDK, mistralai 3.7.0, read field by field 2026-11-27.

The SDK lets further keys through; whether the server does is not known, so the lists are as strict as those for chat."""


class Constant(NamedTuple):
    """A field that is accepted with one value only."""

    accepted: tuple[bytes, ...]
    """The JSON texts that are accepted."""
    instead: bytes | None
    """What to send for any other value; None: nothing."""
    reason: str
    loss: Literal["approximate", "lost"]


RESPONSE_CONSTANTS: Mapping[str, Constant] = {
    "store": Constant((b"false", b"null"), b"false", "Mistral stores no responses", "approximate"),
    "truncation": Constant((b'"disabled"',), None, "Mistral does not shorten an input that is too long", "approximate"),
    "background": Constant((b"false",), None, "Mistral answers the request itself, not in the background", "approximate"),
    "top_logprobs": Constant((b"0", b"null"), None, "Mistral's Responses API gives no logprobs", "lost"),
    "moderation": Constant((b"null",), None, "Mistral's Responses API does not moderate", "lost"),
}
"""Constants of the same model (``validate_const``); for ``moderation`` see the notes on the endpoint of 2026-11."""

RESPONSE_INCLUDED: Mapping[str, Literal["none", "approximate", "lost"]] = {
    "reasoning.encrypted_content": "approximate",
    "message.input_image.image_url": "none",
    "code_interpreter_call.outputs": "none",
    "computer_call_output.output.image_url": "none",
    "file_search_call.results": "none",
    "web_search_call.action.sources": "none",
    "web_search_call.results": "none",
}
"""What a word in ``include`` (OpenAI's reference, 2026-11) is worth: parts of tools that are lost anyway are worth nothing more,
and reasoning comes back as text. Any other word asks for something that is lost."""


class ForeignCall(NamedTuple):
    """A call that the client itself carries out, as a function call."""

    name: str
    """The function's name; "": the item has one."""
    arguments: tuple[str, ...]
    """Keys of the item that become arguments."""
    nested: bool
    """Whether they are arguments by their own names; otherwise the first that is there is the object of all arguments."""
    output: str
    """The type of the item with the result."""


FOREIGN_CALLS: Mapping[str, ForeignCall] = {
    "custom_tool_call": ForeignCall("", ("input",), True, "custom_tool_call_output"),
    "local_shell_call": ForeignCall("local_shell", ("action",), False, "local_shell_call_output"),
    "shell_call": ForeignCall("shell", ("action",), False, "shell_call_output"),
    "apply_patch_call": ForeignCall("apply_patch", ("operation",), False, "apply_patch_call_output"),
    "computer_call": ForeignCall("computer", ("action", "actions"), True, "computer_call_output"),
}
"""OpenAI's items (reference, 2026-11) for calls of tools that Mistral does not have. What was done stays in the conversation."""


class ForeignResult(NamedTuple):
    """A call that OpenAI's servers carried out, and what of it the model has read."""

    asked: tuple[str, ...]
    """Keys with what was asked."""
    came: tuple[str, ...]
    """Keys with what came of it; without any of them the item says nothing."""


FOREIGN_RESULTS: Mapping[str, ForeignResult] = {
    "mcp_call": ForeignResult(("name", "arguments"), ("output", "error")),
    "code_interpreter_call": ForeignResult(("code",), ("outputs",)),
    "file_search_call": ForeignResult(("queries",), ("results",)),
}
"""OpenAI's items (reference, 2026-11) with results that the conversation would lose."""

FOREIGN_ITEMS: Mapping[str, Literal["approximate", "lost"]] = {
    "web_search_call": "approximate",
    "file_search_call": "approximate",
    "code_interpreter_call": "approximate",
    "mcp_call": "approximate",
    "mcp_list_tools": "approximate",
    "mcp_approval_request": "approximate",
    "mcp_approval_response": "approximate",
    "tool_search_call": "approximate",
    "tool_search_output": "approximate",
    "compaction_trigger": "approximate",
}
"""OpenAI's items that say nothing which the messages beside them do not say. Any other type that Mistral has not is a loss."""
