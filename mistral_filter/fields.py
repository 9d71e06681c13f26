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
from typing import Literal, NamedTuple

__all__ = [
    "CHAT_FIELDS",
    "CHUNKS_BY_ROLE",
    "DIMENSIONS",
    "EFFORTS",
    "ENDPOINTS",
    "FOREIGN_CALLS",
    "FOREIGN_ITEMS",
    "FOREIGN_RESULTS",
    "FUNCTION_NAME",
    "KEEP",
    "MEDIA",
    "MESSAGES",
    "MODEL_OPTIONS",
    "NEUTRAL",
    "REASONING",
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
    "SET",
    "TOOL_CALL_ID",
    "WITHOUT_EFFECT",
    "Array",
    "Constant",
    "ForeignCall",
    "ForeignResult",
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

_EFFORT = (("reasoning_effort",), ("reasoning", "effort"))

MODEL_OPTIONS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "reasoning_effort": _EFFORT,
    "reasoning": _EFFORT,
    "reasoning_prompt_mode": (("prompt_mode",),),
    "logprobs": (("logprobs",), ("top_logprobs",)),
    "prompt_logprobs": (("prompt_logprobs",), ("top_prompt_logprobs",)),
    **{
        name: ((name,),)
        for name in (
            "top_k top_logprobs top_prompt_logprobs prompt_mode min_tokens repetition_penalty presence_penalty frequency_penalty "
            "n random_seed parallel_tool_calls prediction service_tier prompt_cache_key"
        ).split()
    },
}
"""What the API calls an option that a model does not have (400 code 3051): the places of a request that ask for it.

Recorded or quoted: "Logprobs are not enabled for this model" (recorded 2026-08-17), "reasoning_effort is not enabled for this
model", "reasoning_effort low is not supported for this model, supported values: [<ReasoningEffort.high: 'high'>, …]"
(2026-08-30), "reasoning_effort='medium' is not supported for this model. Must be one of (<ReasoningEffort.none: 'none'>, …)"
(2026-08), "reasoning_effort 'medium' …; supported values: ['low', 'high', 'max']" (zai-glm-5-3, mistralai/mistral-vibe#1117),
"Reasoning prompt mode is not enabled for this model" (earendil-works/pi#3338). In the Responses API the effort is in
``reasoning``. Not here: what a request cannot do without (tools, images), what keeps it safe (``safe_prompt``, ``guardrails``),
and ``output_dimension``, without which vectors have another length."""

# ---------------------------------------------------------------------------------------------------------------- responses

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

# -------------------------------------------------------------------------------------------- what a dropped field was worth

WITHOUT_EFFECT: Mapping[str, str] = {
    "stream_options": "Mistral sends the usage in its last chunk anyway",
    "user": "a label for the provider's own records",
    "safety_identifier": "a label for the provider's own records",
    "prompt_cache_retention": "how long OpenAI caches a prompt",
    "prompt_cache_options": "how OpenAI caches a prompt",
    "cache_control": "how Anthropic caches a prompt",
    "client_metadata": "a label for the provider's own records",
    "annotations": "part of an earlier answer that models do not read",
    "parsed": "part of an earlier answer that models do not read",
    "content_chunks": "part of an earlier answer that models do not read",
    "provider_specific_fields": "part of an earlier answer that models do not read",
    "id": "an identifier of the client's own",
    "status": "part of an earlier answer that models do not read",
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
    "background": (b"false",),
    "thinking": (b'{"type":"disabled"}',),
    "include_reasoning": (b"true",),
    "exclude": (b"false",),
}
"""Values that say what happens without the field: dropping them loses nothing. Sources: OpenAI's, Mistral's and OpenRouter's
references of 2026-11 (``include_reasoning``, and ``exclude`` in ``reasoning``, are OpenRouter's), Anthropic's for ``thinking``.
``reasoning_effort`` is not among them: without it Mistral's models do not reason, and OpenAI's do."""

MEDIA = frozenset(("url", "image_url", "document_url", "input_audio", "data", "file_data"))
"""Keys under which a request may hold a file in base64: Mistral's chunks and OCR's documents (OpenAPI 2026-08-21), OpenAI's
image, audio and file parts (reference of 2026-11). No rule looks at more of such a text than its beginning."""
