"""OpenAI → Mistral, rule by rule: given, expected, and how it is reported.

The rules are those of the project's table of what real clients send; the expectations are written by hand. A body that is
expected is also judged by Mistral's own packages, so no expectation can be one that the API refuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import sdk

from benchmarks.growth import bodies
from mistral_filter import filter_body
from mistral_filter.errors import Refused

Json = dict[str, Any]

USER = {"role": "user", "content": "Hi"}
BYE = {"role": "user", "content": "Bye"}
ANSWER = {"role": "assistant", "content": "A"}
FIT = "abcDEF123"
ID = re.compile("[a-zA-Z0-9]{9}")
EMPTY_SCHEMA = {"type": "object", "properties": {}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": EMPTY_SCHEMA}}

NEVER_MIND = "any loss"


class Case(NamedTuple):
    name: str
    given: Json
    """Merged into a chat request with model ``m`` and one user message, unless it has ``input`` or another endpoint."""
    expected: Json
    """Likewise; None under a name: the name is gone."""
    changes: list[tuple[str, str, str]]
    """(path, action, loss), in any order."""
    endpoint: str = "chat"
    options: Mapping[str, Any] = MappingProxyType({})


GONE = object()


def chat(*messages: Json, **fields: Any) -> Json:
    return {"messages": list(messages), **fields}


def parts(*chunks: Json, role: str = "user") -> Json:
    return {"role": role, "content": list(chunks)}


def call(id: Any = FIT, name: str = "f", arguments: Any = "{}", **more: Any) -> Json:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calls(*made: Json, **more: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(made), **more}


def result(id: Any = FIT, content: Any = "r", **more: Any) -> Json:
    return {"role": "tool", "tool_call_id": id, "content": content, **more}


TEXT = {"type": "text", "text": "t"}
IMAGE = {"type": "image_url", "image_url": {"url": "u"}}
PDF = "data:application/pdf;base64,AA=="
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}

CASES = [
    # ------------------------------------------------------------------------------------------ stream_options and the like
    Case(
        "stream_options",
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": GONE},
        [("stream_options", "drop", "none")],
    ),
    *(
        Case(name, {name: value}, {name: GONE}, [(name, "drop", loss)])
        for name, value, loss in [
            ("user", "u", "none"),
            ("store", False, "none"),
            ("store", True, "lost"),
            ("verbosity", "low", "lost"),
            ("logit_bias", {"1": 2}, "lost"),
            ("logit_bias", {}, "none"),
            ("safety_identifier", "s", "none"),
            ("web_search_options", {"a": 1}, "lost"),
            ("modalities", ["text"], "none"),
            ("modalities", ["text", "audio"], "lost"),
            ("audio", {"voice": "v"}, "lost"),
            ("prompt_cache_retention", "24h", "none"),
            ("min_p", 0.1, "lost"),
            ("guided_json", {"type": "object"}, "lost"),
            ("chat_template_kwargs", {"a": 1}, "lost"),
            ("best_of", 1, "none"),
            ("echo", None, "none"),
        ]
    ),
    *(
        Case(f"{name} in classic", {name: value}, {name: GONE}, [(name, "drop", loss)], options={"fields": "classic"})
        for name, value, loss in [
            ("logprobs", True, "lost"),
            ("logprobs", False, "none"),
            ("top_logprobs", 3, "lost"),
            ("top_k", 3, "lost"),
            ("n", 2, "lost"),
            ("n", 1, "none"),
            ("frequency_penalty", 0, "none"),
            ("frequency_penalty", 0.5, "lost"),
            ("presence_penalty", 0.5, "lost"),
            ("parallel_tool_calls", True, "none"),
            ("parallel_tool_calls", False, "lost"),
            ("metadata", {"a": "b"}, "lost"),
        ]
    ),
    *(
        Case(f"{name} in current", {name: value}, {}, [])
        for name, value in [
            ("logprobs", True),
            ("top_logprobs", 3),
            ("top_k", 3),
            ("n", 2),
            ("frequency_penalty", 0.5),
            ("presence_penalty", -2),
            ("parallel_tool_calls", False),
            ("metadata", {"a": "b"}),
            ("tool_choice", "required"),
            ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ]
    ),
    # ---------------------------------------------------------------------------------------------------------- the limits
    Case(
        "max_completion_tokens",
        {"max_completion_tokens": 5},
        {"max_completion_tokens": GONE, "max_tokens": 5},
        [("max_completion_tokens", "rename", "none")],
    ),
    Case(
        "the smaller of two limits is the new one",
        {"max_completion_tokens": 5, "max_tokens": 9},
        {"max_completion_tokens": GONE, "max_tokens": 5},
        [("max_completion_tokens", "rename", "none")],
    ),
    Case(
        "the smaller of two limits is the old one",
        {"max_completion_tokens": 9, "max_tokens": 5},
        {"max_completion_tokens": GONE, "max_tokens": 5},
        [("max_completion_tokens", "drop", "none")],
    ),
    Case(
        "a limit beside null",
        {"max_completion_tokens": 5, "max_tokens": None},
        {"max_completion_tokens": GONE, "max_tokens": 5},
        [("max_completion_tokens", "rename", "none")],
    ),
    Case(
        "null beside a limit",
        {"max_completion_tokens": None, "max_tokens": 5},
        {"max_completion_tokens": GONE, "max_tokens": 5},
        [("max_completion_tokens", "drop", "none")],
    ),
    Case("no limit", {"max_tokens": -1}, {"max_tokens": GONE}, [("max_tokens", "drop", "none")]),
    # ------------------------------------------------------------------------------------------------------------ the seed
    Case("seed", {"seed": 7}, {"seed": GONE, "random_seed": 7}, [("seed", "rename", "none")]),
    Case("seed beside random_seed", {"seed": 7, "random_seed": 3}, {"seed": GONE, "random_seed": 3}, [("seed", "drop", "none")]),
    Case("a seed of null", {"seed": None}, {"seed": GONE}, [("seed", "drop", "none")]),
    # --------------------------------------------------------------------------------------------------------------- roles
    Case(
        "developer",
        chat({"role": "developer", "content": "d"}, USER),
        chat({"role": "system", "content": "d"}, USER),
        [("messages[0].role", "set", "none")],
    ),
    Case(
        "system after assistant",
        chat(USER, ANSWER, {"role": "system", "content": "s"}, BYE),
        chat(USER, ANSWER, {"role": "user", "content": "s"}, BYE),
        [("messages[2].role", "set", "approximate")],
    ),
    Case(
        "system after tool",
        chat(USER, calls(call()), result(), {"role": "system", "content": "s"}),
        chat(USER, calls(call()), result(), {"role": "user", "content": "s"}),
        [("messages[3].role", "set", "approximate")],
    ),
    Case("system after user", chat(USER, {"role": "system", "content": "s"}, BYE), {}, []),
    Case("two systems at the start", chat({"role": "system", "content": "s"}, {"role": "system", "content": "s"}, USER), {}, []),
    Case(
        "last is the assistant",
        chat(USER, ANSWER),
        chat(USER, {**ANSWER, "prefix": True}),
        [("messages[1].prefix", "insert", "approximate")],
    ),
    Case("last is the assistant, said so", chat(USER, {**ANSWER, "prefix": True}), {}, []),
    Case(
        "last is the assistant, denied",
        chat(USER, {**ANSWER, "prefix": False}),
        chat(USER, {**ANSWER, "prefix": True}),
        [("messages[1].prefix", "insert", "approximate")],
    ),
    Case(
        "a prefix that is not last",
        chat(USER, {**ANSWER, "prefix": True}, BYE),
        chat(USER, ANSWER, BYE),
        [("messages[1].prefix", "drop", "none")],
    ),
    Case(
        "an empty last assistant message",
        chat(USER, {"role": "assistant", "content": ""}),
        chat(USER),
        [("messages[1]", "drop", "none")],
    ),
    Case("a user after a tool", chat(USER, calls(call()), result(), BYE), {}, []),
    Case(
        "the bridge",
        chat(USER, calls(call()), result(), BYE),
        chat(USER, calls(call()), result(), {"role": "assistant", "content": "Understood."}, BYE),
        [("messages[3]", "insert", "none")],
        options={"bridge": True},
    ),
    # --------------------------------------------------------------------------------------------- what answers bring back
    *(
        Case(
            f"assistant {name}",
            chat(USER, {**ANSWER, name: value}, BYE),
            chat(USER, ANSWER, BYE),
            [(f"messages[1].{name}", "drop", "none")],
        )
        for name, value in [
            ("reasoning_content", "Hm"),
            ("reasoning", "Hm"),
            ("reasoning_details", [{"type": "reasoning.text", "text": "Hm"}]),
            ("annotations", []),
            ("annotations", [{"type": "url_citation"}]),
            ("refusal", None),
            ("audio", None),
            ("function_call", None),
            ("parsed", None),
            ("parsed", {"a": 1}),
            ("provider_specific_fields", {"a": 1}),
            ("id", "msg_1"),
        ]
    ),
    Case(
        "assistant audio",
        chat(USER, {**ANSWER, "audio": {"id": "a"}}, BYE),
        chat(USER, ANSWER, BYE),
        [("messages[1].audio", "drop", "lost")],
    ),
    Case(
        "a message's metadata", chat({**USER, "metadata": {"a": 1}}), chat(USER), [("messages[0].metadata", "drop", NEVER_MIND)]
    ),
    Case(
        "a refusal for content",
        chat(USER, {"role": "assistant", "content": None, "refusal": "No."}, BYE),
        chat(USER, {"role": "assistant", "content": "No."}, BYE),
        [("messages[1].refusal", "rename", "none")],
    ),
    Case(
        "a refusal in a dump of the whole message",
        chat(
            USER,
            {"role": "assistant", "content": None, "refusal": "No.", "audio": None, "function_call": None, "tool_calls": None},
            BYE,
        ),
        chat(USER, {"role": "assistant", "content": "No.", "tool_calls": None}, BYE),
        [
            ("messages[1].refusal", "rename", "none"),
            ("messages[1].audio", "drop", "none"),
            ("messages[1].function_call", "drop", "none"),
        ],
    ),
    Case(
        "reasoning beside a list of parts, for a model that reads it",
        chat(
            USER,
            {**parts(TEXT, role="assistant"), "reasoning_content": None, "reasoning": "Hm"},
            BYE,
            model="magistral-medium-latest",
        ),
        chat(USER, parts(THOUGHT, TEXT, role="assistant"), BYE, model="magistral-medium-latest"),
        [("messages[1].reasoning", "rename", "none"), ("messages[1].reasoning_content", "drop", "none")],
    ),
    Case(
        "reasoning said twice, for a model that reads it",
        chat(USER, {**parts(THOUGHT, TEXT, role="assistant"), "reasoning": "Hm"}, BYE, model="magistral-medium-latest"),
        chat(USER, parts(THOUGHT, TEXT, role="assistant"), BYE, model="magistral-medium-latest"),
        [("messages[1].reasoning", "drop", "none")],
    ),
    Case(
        "a part after one that goes",
        chat(USER, parts({"type": "reasoning", "summary": []}, {**TEXT, "x": 1}, role="assistant"), BYE),
        chat(USER, parts(TEXT, role="assistant"), BYE),
        [("messages[1].content[0]", "drop", "none"), ("messages[1].content[1].x", "drop", "lost")],
    ),
    Case(
        "a refusal beside content",
        chat(USER, {**ANSWER, "refusal": "No."}, BYE),
        chat(USER, ANSWER, BYE),
        [("messages[1].refusal", "drop", NEVER_MIND)],
    ),
    Case(
        "reasoning for a model that reads it",
        chat(USER, {**ANSWER, "reasoning_content": "Hm"}, BYE, model="magistral-medium-latest"),
        chat(
            USER, {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "A"}]}, BYE, model="magistral-medium-latest"
        ),
        [("messages[1].reasoning_content", "rename", "none")],
    ),
    *(
        Case(
            f"a part of earlier reasoning, {part}",
            chat(USER, parts(part, TEXT, role="assistant"), BYE),
            chat(USER, parts(TEXT, role="assistant"), BYE),
            [("messages[1].content[0]", "drop", "none")],
        )
        for part in [
            {"type": "thinking", "thinking": "Hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "AA=="},
            {"type": "reasoning", "reasoning": "Hm"},
            {"type": "reasoning", "summary": []},
        ]
    ),
    *(
        Case(
            f"a part of earlier reasoning for a model that reads it, {part}",
            chat(USER, parts(part, TEXT, role="assistant"), BYE, model="magistral-small-latest"),
            chat(USER, parts(THOUGHT, TEXT, role="assistant"), BYE, model="magistral-small-latest"),
            [("messages[1].content[0]", "set", "none")],
        )
        for part in [
            {"type": "thinking", "thinking": "Hm", "signature": "s"},
            {"type": "reasoning", "reasoning": "Hm"},
            {"type": "reasoning", "text": "Hm"},
        ]
    ),
    Case(
        "nothing but earlier reasoning",
        chat(USER, parts({"type": "thinking", "thinking": "Hm"}, role="assistant"), BYE),
        chat(USER, BYE),
        [("messages[1].content[0]", "drop", "none"), ("messages[1]", "drop", "none")],
    ),
    Case("Mistral's own reasoning", chat(USER, parts(THOUGHT, TEXT, role="assistant"), BYE), {}, []),
    Case(
        "content null beside calls",
        chat(USER, calls(call(), refusal=None), result()),
        chat(USER, calls(call()), result()),
        [("messages[1].refusal", "drop", "none")],
    ),
    Case(
        "an empty assistant message",
        chat(USER, {"role": "assistant", "content": ""}, BYE),
        chat(USER, BYE),
        [("messages[1]", "drop", "none")],
    ),
    Case(
        "an assistant message of null",
        chat(USER, {"role": "assistant", "content": None, "tool_calls": None}, BYE),
        chat(USER, BYE),
        [("messages[1]", "drop", "none")],
    ),
    Case(
        "an assistant message of nothing",
        chat(USER, {"role": "assistant", "content": [], "tool_calls": []}, BYE),
        chat(USER, BYE),
        [("messages[1]", "drop", "none")],
    ),
    Case("an assistant message of white space", chat(USER, {"role": "assistant", "content": " "}, BYE), {}, []),
    *(
        Case(f"name on {role}", chat({"role": "system", "content": "s"}, USER, ANSWER, BYE), {}, [])._replace(
            given=chat(
                *({**m, "name": "n"} if m["role"] == role else m for m in ({"role": "system", "content": "s"}, USER, ANSWER, BYE))
            ),
            expected=chat({"role": "system", "content": "s"}, USER, ANSWER, BYE),
            changes=[(f"messages[{i}].name", "drop", "lost") for i in where],
        )
        for role, where in [("system", [0]), ("user", [1, 3]), ("assistant", [2])]
    ),
    Case("name on tool", chat(USER, calls(call()), result(name="f")), {}, []),
    Case(
        "a name on tool that is none of Mistral's",
        chat(USER, calls(call()), result(name="server.tool")),
        chat(USER, calls(call()), result()),
        [("messages[2].name", "drop", "none")],
    ),
    # --------------------------------------------------------------------------------------------------------------- parts
    Case(
        "cache_control",
        chat(parts({**TEXT, "cache_control": {"type": "ephemeral"}})),
        chat(parts(TEXT)),
        [("messages[0].content[0].cache_control", "drop", "none")],
    ),
    Case(
        "a PDF",
        chat(parts({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}})),
        chat(parts({"type": "document_url", "document_url": PDF, "document_name": "a.pdf"})),
        [("messages[0].content[0].file", "rename", "none")],
    ),
    Case(
        "a PDF without a name",
        chat(parts({"type": "file", "file": {"file_data": PDF}})),
        chat(parts({"type": "document_url", "document_url": PDF})),
        [("messages[0].content[0].file", "rename", "none")],
    ),
    Case(
        "a file that is no PDF, with an id of OpenAI's beside it",
        chat(parts({"type": "file", "file": {"filename": "a.docx", "file_data": "AA==", "file_id": "file-1"}})),
        chat(
            parts(
                {
                    "type": "document_url",
                    "document_url": "data:application/vnd.openxmlformats-officedocument.wordprocessingml.document;base64,AA==",
                    "document_name": "a.docx",
                }
            )
        ),
        [("messages[0].content[0].file", "rename", "none"), ("messages[0].content[0].file.file_id", "drop", "lost")],
    ),
    Case("Mistral's own file", chat(parts({"type": "file", "file_id": "3b6d45eb-e30b-416f-8019-f47e2e93d930"})), {}, []),
    Case(
        "audio",
        chat(parts({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}})),
        chat(parts({"type": "input_audio", "input_audio": "AA=="})),
        [("messages[0].content[0].input_audio", "set", "none")],
    ),
    Case("Mistral's own audio", chat(parts({"type": "input_audio", "input_audio": "AA=="})), {}, []),
    Case(
        "a refusal part",
        chat(USER, parts({"type": "refusal", "refusal": "No."}, role="assistant"), BYE),
        chat(USER, parts({"type": "text", "text": "No."}, role="assistant"), BYE),
        [("messages[1].content[0].type", "rename", "none")],
    ),
    Case("an image's url as a string", chat(parts({"type": "image_url", "image_url": "u"})), {}, []),
    Case("an image's url as an object", chat(parts(IMAGE)), {}, []),
    Case(
        "detail",
        chat(parts({"type": "image_url", "image_url": {"url": "u", "detail": "original"}})),
        chat(parts({"type": "image_url", "image_url": {"url": "u", "detail": "high"}})),
        [("messages[0].content[0].image_url.detail", "set", "approximate")],
    ),
    Case(
        "an image from a tool",
        chat(USER, calls(call()), result(content=[TEXT, IMAGE]), BYE),
        chat(USER, calls(call()), result(content=[TEXT]), parts(IMAGE), BYE),
        [("messages[2].content[1]", "move", "approximate"), ("messages[3]", "insert", "none")],
    ),
    Case(
        "images from two tools",
        chat(USER, calls(call("abcDEF121"), call("abcDEF122")), result("abcDEF121", [IMAGE]), result("abcDEF122", [TEXT, IMAGE])),
        chat(
            USER,
            calls(call("abcDEF121"), call("abcDEF122")),
            result("abcDEF121", "attachment"),
            result("abcDEF122", [TEXT]),
            parts(IMAGE, IMAGE),
        ),
        [
            ("messages[2].content[0]", "move", "approximate"),
            ("messages[3].content[1]", "move", "approximate"),
            ("messages[4]", "insert", "none"),
        ],
    ),
    Case(
        "an image in an answer",
        chat(USER, parts(IMAGE, role="assistant"), BYE),
        chat(USER, parts({"type": "text", "text": "[image_url]"}, role="assistant"), BYE),
        [("messages[1].content[0]", "set", "lost")],
    ),
    Case("thinking in an answer", chat(USER, parts(THOUGHT, TEXT, role="assistant"), BYE), {}, []),
    Case(
        "thinking in a question",
        chat(parts(THOUGHT)),
        chat(parts({"type": "text", "text": "Hm"})),
        [("messages[0].content[0]", "set", "approximate")],
    ),
    # ------------------------------------------------------------------------------------------------- functions and tools
    Case(
        "functions",
        {"functions": [{"name": "f", "parameters": EMPTY_SCHEMA}]},
        {"functions": GONE, "tools": [FUNCTION]},
        [("functions", "rename", "none")],
    ),
    Case(
        "function_call auto",
        {"tools": [FUNCTION], "function_call": "auto"},
        {"tools": [FUNCTION], "function_call": GONE, "tool_choice": "auto"},
        [("function_call", "rename", "none")],
    ),
    Case(
        "function_call by name",
        {"functions": [{"name": "f", "parameters": EMPTY_SCHEMA}], "function_call": {"name": "f"}},
        {
            "functions": GONE,
            "function_call": GONE,
            "tools": [FUNCTION],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        [("functions", "rename", "none"), ("function_call", "rename", "none")],
    ),
    Case(
        "a flat tool",
        {"tools": [{"type": "function", "name": "f", "parameters": EMPTY_SCHEMA, "strict": True}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": EMPTY_SCHEMA, "strict": True}}]},
        [("tools[0]", "rename", "none")],
    ),
    Case(
        "a flat choice",
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}},
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        [("tool_choice.name", "rename", "none")],
    ),
    Case(
        "a custom tool",
        {"tools": [FUNCTION, {"type": "custom", "custom": {"name": "c"}}]},
        {"tools": [FUNCTION]},
        [("tools[1]", "drop", "lost")],
    ),
    Case(
        "nothing but custom tools",
        {"tools": [{"type": "custom", "custom": {"name": "c"}}], "tool_choice": "required"},
        {"tools": GONE, "tool_choice": GONE},
        [("tools[0]", "drop", "lost"), ("tool_choice", "drop", "none")],
    ),
    Case(
        "no parameters",
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [FUNCTION]},
        [("tools[0].function.parameters", "insert", "none")],
    ),
    Case(
        "parameters of null",
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": None}}]},
        {"tools": [FUNCTION]},
        [("tools[0].function.parameters", "insert", "none")],
    ),
    Case("no tools", {"tools": []}, {"tools": GONE}, [("tools", "drop", "none")]),
    Case(
        "no tools, but a choice",
        {"tools": [], "tool_choice": "auto"},
        {"tools": GONE, "tool_choice": GONE},
        [("tools", "drop", "none"), ("tool_choice", "drop", "none")],
    ),
    Case(
        "allowed_tools",
        {
            "tools": [FUNCTION, {"type": "function", "function": {"name": "g", "parameters": EMPTY_SCHEMA}}],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
        },
        {"tools": [FUNCTION], "tool_choice": "required"},
        [("tool_choice", "set", "none"), ("tools[1]", "drop", "none")],
    ),
    Case(
        "allowed_tools of the Responses API",
        {
            "tools": [FUNCTION],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        },
        {"tools": [FUNCTION], "tool_choice": "auto"},
        [("tool_choice", "set", "none")],
    ),
    Case(
        "$schema",
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "f",
                        "parameters": {"$schema": "https://json-schema.org/draft/2020-12/schema", **EMPTY_SCHEMA},
                    },
                }
            ]
        },
        {"tools": [FUNCTION]},
        [("tools[0].function.parameters.$schema", "drop", "none")],
    ),
    Case(
        "$id in response_format",
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"$id": "x", **EMPTY_SCHEMA, "$defs": {"a": {"$id": "y"}}}},
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {**EMPTY_SCHEMA, "$defs": {"a": {"$id": "y"}}}},
            }
        },
        [("response_format.json_schema.schema.$id", "drop", "none")],
    ),
    *(
        Case(
            f"a format of {form}",
            {"response_format": {"type": "json_schema", "json_schema": form}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
            [("response_format.json_schema.schema", "insert", "none")],
        )
        for form in [{"name": "n"}, {"name": "n", "schema": None}]
    ),
    Case(
        "prediction as parts",
        {"prediction": {"type": "content", "content": [TEXT, TEXT]}},
        {"prediction": {"type": "content", "content": "tt"}},
        [("prediction.content", "set", "none")],
    ),
    Case(
        "prediction as parts that are not all text",
        {"prediction": {"type": "content", "content": [TEXT, IMAGE]}},
        {"prediction": {"type": "content", "content": "t"}},
        [("prediction.content", "set", "none"), ("prediction.content[1]", "drop", "lost")],
    ),
    Case(
        "a flat json_schema",
        {"response_format": {"type": "json_schema", "name": "n", "schema": EMPTY_SCHEMA, "strict": True}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": EMPTY_SCHEMA, "strict": True}}},
        [("response_format.schema", "rename", "none")],
    ),
    Case(
        "json_object with a schema",
        {"response_format": {"type": "json_object", "schema": EMPTY_SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "response", "schema": EMPTY_SCHEMA}}},
        [("response_format.schema", "rename", "none")],
    ),
    Case(
        "OpenRouter's reasoning",
        {"reasoning": {"effort": "low", "exclude": True}},
        {"reasoning": GONE, "reasoning_effort": "low"},
        [("reasoning.effort", "rename", "none"), ("reasoning.exclude", "drop", "lost")],
    ),
    Case(
        "a tool's image where nobody judges the order",
        {"input": [USER, calls(call()), result(content=[IMAGE])]},
        {},
        [],
        endpoint="chat/moderations",
    ),
    # --------------------------------------------------------------------------------------------- nulls, ranges and words
    *(
        Case(f"{name} null", {name: None}, {name: GONE}, [(name, "drop", "none")])
        for name in ("stream", "response_format", "tool_choice", "parallel_tool_calls", "prediction", "safe_prompt")
    ),
    *(
        Case(f"{name} null is Mistral's too", {name: None}, {}, [])
        for name in ("temperature", "top_p", "max_tokens", "stop", "random_seed", "tools", "n", "metadata", "presence_penalty")
    ),
    Case(
        "function nulls",
        {"tools": [{"type": "function", "function": {**FUNCTION["function"], "description": None, "strict": None}}]},
        {"tools": [FUNCTION]},
        [("tools[0].function.description", "drop", "none"), ("tools[0].function.strict", "drop", "none")],
    ),
    Case(
        "json_schema.strict null",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": None}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
        [("response_format.json_schema.strict", "drop", "none")],
    ),
    Case(
        "prefix null",
        chat(USER, {**ANSWER, "prefix": None}, BYE),
        chat(USER, ANSWER, BYE),
        [("messages[1].prefix", "drop", "none")],
    ),
    Case(
        "nulls in a call",
        chat(USER, calls({**call(), "type": None, "index": None}), result()),
        chat(USER, calls({"id": FIT, "function": call()["function"]}), result()),
        [("messages[1].tool_calls[0].type", "drop", "none"), ("messages[1].tool_calls[0].index", "drop", "none")],
    ),
    Case(
        "a system message of null", chat({"role": "system", "content": None}, USER), chat(USER), [("messages[0]", "drop", "none")]
    ),
    Case("a user message of null", chat({"role": "user", "content": None}), {}, []),
    Case("a result of null", chat(USER, calls(call()), result(content=None)), {}, []),
    *(
        Case(f"{name} {value}", {name: value}, {name: fits}, [(name, "drop" if fits is GONE else "set", loss)])
        for name, value, fits, loss in [
            ("temperature", 2, 1.5, "approximate"),
            ("temperature", -1, 0, "approximate"),
            ("top_p", 0, 0.0001, "approximate"),
            ("top_p", 1.5, 1, "approximate"),
            ("presence_penalty", 3, 2, "approximate"),
            ("frequency_penalty", -3, -2, "approximate"),
            ("random_seed", -1, GONE, NEVER_MIND),
            ("n", 0, GONE, NEVER_MIND),
            ("service_tier", "default", NEVER_MIND, "none"),
            ("service_tier", "flex", GONE, "approximate"),
            ("service_tier", "priority", GONE, "approximate"),
            ("reasoning_effort", "max", "xhigh", "approximate"),
            ("stop", [], GONE, "none"),
        ]
        if fits != NEVER_MIND
    ),
    Case(
        "service_tier default", {"service_tier": "default"}, {"service_tier": "standard_only"}, [("service_tier", "set", "none")]
    ),
    *(
        Case(f"{name} {value} is in range", {name: value}, {}, [])
        for name, value in [
            ("temperature", 0),
            ("temperature", 1.5),
            ("top_p", 1),
            ("top_p", 0.01),
            ("max_tokens", 0),
            ("n", 1),
            ("random_seed", 0),
            ("presence_penalty", 2),
            ("reasoning_effort", "xhigh"),
            ("service_tier", "auto"),
        ]
    ),
    # -------------------------------------------------------------------------------------------------------- embeddings
    Case(
        "dimensions",
        {"dimensions": 8},
        {"dimensions": GONE, "output_dimension": 8},
        [("dimensions", "rename", "none")],
        endpoint="embeddings",
    ),
    Case("user of embeddings", {"user": "u"}, {"user": GONE}, [("user", "drop", "none")], endpoint="embeddings"),
    Case(
        "encoding_format null",
        {"encoding_format": None},
        {"encoding_format": GONE},
        [("encoding_format", "drop", "none")],
        endpoint="embeddings",
    ),
    Case(
        "fim has a limit too",
        {"max_completion_tokens": 5, "seed": 2},
        {"max_completion_tokens": GONE, "seed": GONE, "max_tokens": 5, "random_seed": 2},
        [("max_completion_tokens", "rename", "none"), ("seed", "rename", "none")],
        endpoint="fim",
    ),
    # ------------------------------------------------------------------------------------------------------ a repeated key
    # (bytes: tests/test_filter.py)
    Case(
        "allowed_tools that are none of the tools",
        {
            "tools": [FUNCTION],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "x"}]},
        },
        {"tool_choice": "none"},
        [("tool_choice", "set", "lost")],
    ),
    Case(
        "paths are those of the list as it came",
        {
            "tools": [
                {"type": "web_search_preview"},
                {"type": "function", "function": {**FUNCTION["function"], "x": 1}},
                {"type": "function", "function": {"name": "g", "parameters": EMPTY_SCHEMA}},
            ],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        },
        {"tools": [FUNCTION], "tool_choice": "auto"},
        [
            ("tools[0]", "drop", "lost"),
            ("tools[1].function.x", "drop", "lost"),
            ("tools[2]", "drop", "none"),
            ("tool_choice", "set", "none"),
        ],
    ),
    Case(
        "Anthropic's form of a tool",
        {
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object", "required": ["x"]}}],
            "tool_choice": {"type": "tool", "name": "f"},
        },
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "required": ["x"]}},
                }
            ],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        [
            ("tools[0]", "rename", "none"),
            ("tools[0].type", "insert", "none"),
            ("tools[0].input_schema", "rename", "none"),
            ("tool_choice.name", "rename", "none"),
        ],
    ),
    *(
        Case(
            f"functions beside tools of {tools}",
            {"functions": [FUNCTION["function"]], "function_call": "auto", "tools": tools, "tool_choice": None},
            {"functions": GONE, "function_call": GONE, "tools": [FUNCTION], "tool_choice": "auto"},
            [("functions", "rename", "none"), ("function_call", "rename", "none")],
        )
        for tools in (None, [])
    ),
    *(
        Case(
            f"functions beside tools, {loss}",
            {"functions": [{"name": name}], "function_call": "auto", "tools": [FUNCTION], "tool_choice": "any"},
            {"functions": GONE, "function_call": GONE},
            [("functions", "drop", loss), ("function_call", "drop", "none")],
        )
        for name, loss in (("f", "none"), ("g", "lost"))
    ),
    Case(
        "what moves out of a tool's result is judged too",
        chat(
            USER,
            calls(call()),
            result(
                content=[
                    {"type": "image_url", "image_url": {"url": "u", "detail": "original", "format": "png"}, "cache_control": {}}
                ]
            ),
            BYE,
        ),
        chat(
            USER,
            calls(call()),
            result(content="attachment"),
            parts({"type": "image_url", "image_url": {"url": "u", "detail": "high"}}),
            BYE,
        ),
        [
            ("messages[2].content[0]", "move", "approximate"),
            ("messages[3]", "insert", "none"),
            ("messages[2].content[0].cache_control", "drop", "none"),
            ("messages[2].content[0].image_url.detail", "set", "approximate"),
            ("messages[2].content[0].image_url.format", "drop", "lost"),
        ],
    ),
    Case(
        "a reference in a tool's result",
        chat(USER, calls(call()), result(content=[{"type": "reference", "reference_ids": [1]}, TEXT])),
        chat(USER, calls(call()), result(content=[TEXT])),
        [("messages[2].content[0]", "drop", "approximate")],
    ),
    Case(
        "the places of parts behind reasoning",
        chat(
            USER,
            {**parts({**TEXT, "cache_control": {}}, role="assistant"), "reasoning_content": "Hm"},
            BYE,
            model="magistral-small-latest",
        ),
        chat(USER, parts(THOUGHT, TEXT, role="assistant"), BYE, model="magistral-small-latest"),
        [("messages[1].reasoning_content", "rename", "none"), ("messages[1].content[0].cache_control", "drop", "none")],
    ),
    Case(
        "thinking in a system message that becomes a user's",
        chat(USER, ANSWER, parts(TEXT, THOUGHT, role="system"), BYE),
        chat(USER, ANSWER, parts(TEXT, {"type": "text", "text": "Hm"}), BYE),
        [("messages[2].content[1]", "set", "approximate"), ("messages[2].role", "set", "approximate")],
    ),
    Case(
        "an allowed tool that is no function",
        {
            "tools": [{"type": "web_search"}, FUNCTION],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]},
        },
        {"tools": [{"type": "web_search"}], "tool_choice": "auto"},
        [("tool_choice", "set", "none"), ("tools[1]", "drop", "none")],
    ),
    Case(
        "Mistral's own file in OpenAI's form",
        chat(parts({"type": "file", "file": {"file_id": "3b6d45eb-e30b-416f-8019-f47e2e93d930", "filename": "a.pdf"}, "foo": 1})),
        chat(parts({"type": "file", "file_id": "3b6d45eb-e30b-416f-8019-f47e2e93d930"})),
        [
            ("messages[0].content[0].file", "rename", "none"),
            ("messages[0].content[0].file.filename", "drop", "lost"),
            ("messages[0].content[0].foo", "drop", "lost"),
        ],
    ),
    *(
        Case(
            f"reasoning {given}",
            {"reasoning": given, "reasoning_effort": None},
            {"reasoning": GONE, "reasoning_effort": effort},
            changes,
        )
        for given, effort, changes in [
            ({"effort": "high"}, "high", [("reasoning.effort", "rename", "none")]),
            ({"enabled": True}, None, [("reasoning.enabled", "drop", "lost")]),
            ({}, None, [("reasoning", "drop", "none")]),
            ({"effort": None}, None, [("reasoning.effort", "drop", "none")]),
        ]
    ),
    # ------------------------------------------------------------------------------------------------------ Responses bodies
    Case(
        "assistants who say nothing beside calls",
        {
            "input": [
                USER,
                {"role": "assistant"},
                {"type": "function_call", "call_id": "abcDEF121", "name": "f", "arguments": "{}"},
                {"role": "assistant", "content": None},
                {"role": "assistant", "content": "mid"},
                {"type": "function_call_output", "call_id": "abcDEF121", "output": "1"},
            ]
        },
        {"input": GONE, "messages": [USER, {**calls(call("abcDEF121")), "content": "mid"}, result("abcDEF121", "1")]},
        [("input", "rename", "none"), ("input[3]", "drop", "none")],
    ),
    Case(
        "a format in both forms",
        {"input": "Hi", "text": {"format": {"type": "json_object"}}, "response_format": {"type": "text"}},
        {"input": GONE, "text": GONE, "messages": [USER]},
        [("input", "rename", "none"), ("text.format", "drop", "lost")],
    ),
    Case(
        "messages null beside an input",
        {"input": "Hi", "messages": None},
        {"messages": [USER], "input": GONE},
        [("input", "rename", "none")],
    ),
    Case(
        "a message between a call and its result",
        {
            "input": [
                USER,
                {"type": "function_call", "call_id": "abcDEF121", "name": "f", "arguments": "{}"},
                {"role": "user", "content": "Wait"},
                {"type": "function_call", "call_id": "abcDEF122", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "abcDEF121", "output": "1"},
                {"type": "function_call_output", "call_id": "abcDEF122", "output": "2"},
            ]
        },
        {
            "input": GONE,
            "messages": [
                USER,
                {**calls(call("abcDEF121"), call("abcDEF122")), "content": ""},
                result("abcDEF121", "1"),
                result("abcDEF122", "2"),
                {"role": "user", "content": "Wait"},
            ],
        },
        [("input", "rename", "none"), ("input[2]", "move", "none")],
    ),
    Case(
        "a text and a call of one turn",
        {
            "input": [
                USER,
                {"type": "message", "role": "assistant", "content": "Wait"},
                {"type": "function_call", "call_id": "abcDEF121", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "abcDEF121", "output": "1"},
            ]
        },
        {"input": GONE, "messages": [USER, {**calls(call("abcDEF121")), "content": "Wait"}, result("abcDEF121", "1")]},
        [("input", "rename", "none")],
    ),
    Case("input as text", {"input": "Hi"}, {"messages": [USER], "input": GONE}, [("input", "rename", "none")]),
    Case(
        "instructions, limit, effort, store",
        {
            "input": "Hi",
            "instructions": "s",
            "max_output_tokens": 5,
            "reasoning": {"effort": "low"},
            "store": False,
            "text": {"format": {"type": "text"}},
        },
        {
            "input": GONE,
            "instructions": GONE,
            "max_output_tokens": GONE,
            "reasoning": GONE,
            "store": GONE,
            "text": GONE,
            "messages": [{"role": "system", "content": "s"}, USER],
            "max_tokens": 5,
            "reasoning_effort": "low",
        },
        [
            ("input", "rename", "none"),
            ("instructions", "rename", "none"),
            ("max_output_tokens", "rename", "none"),
            ("reasoning.effort", "rename", "none"),
            ("store", "drop", "none"),
            ("text", "drop", "none"),
        ],
    ),
    Case(
        "text.format",
        {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "n", "schema": EMPTY_SCHEMA, "strict": True}}},
        {
            "input": GONE,
            "text": GONE,
            "messages": [USER],
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": EMPTY_SCHEMA, "strict": True}},
        },
        [("input", "rename", "none"), ("text.format", "rename", "none")],
    ),
    Case(
        "items",
        {
            "input": [
                {"role": "developer", "content": "d"},
                {
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "q"}, {"type": "input_image", "image_url": "u", "detail": "low"}],
                },
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "abcDEF121", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "abcDEF122", "name": "g", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "abcDEF122", "output": "2"},
                {"type": "function_call_output", "call_id": "abcDEF121", "output": [{"type": "input_text", "text": "1"}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
                {"type": "web_search_call", "status": "completed"},
                BYE,
            ]
        },
        {
            "input": GONE,
            "messages": [
                {"role": "system", "content": "d"},
                parts({"type": "text", "text": "q"}, {"type": "image_url", "image_url": {"url": "u", "detail": "low"}}),
                {**calls(call("abcDEF121"), call("abcDEF122", "g")), "content": ""},
                result("abcDEF122", "2"),
                result("abcDEF121", [{"type": "text", "text": "1"}]),
                parts({"type": "text", "text": "a"}, role="assistant"),
                BYE,
            ],
        },
        [
            ("input", "rename", "none"),
            ("input[2]", "drop", "none"),
            ("input[8]", "drop", "lost"),
        ],
    ),
]

ENDPOINT_BASE = {"embeddings": {"model": "m", "input": "x"}, "fim": {"model": "m", "prompt": "x"}}


def base(case: Case) -> Json:
    return ENDPOINT_BASE.get(case.endpoint) or ({"model": "m"} if "input" in case.given else {"model": "m", "messages": [USER]})


def merged(*objects: Json) -> Json:
    whole = {name: value for one in objects for name, value in one.items()}
    return {name: value for name, value in whole.items() if value is not GONE}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_rule(case: Case) -> None:
    """What a client says in OpenAI's words comes out in Mistral's, and every change is reported with what it costs."""
    given = merged(base(case), case.given)
    expected = merged(base(case), case.given, case.expected)
    out, changes, _ = filter_body(json.dumps(given).encode(), case.endpoint, **{"fields": "current", **case.options})
    assert json.loads(out) == expected
    reported = [(change.path, change.action, change.loss) for change in changes]
    if case.name == "items":  # what its parts need is not at the paths of the input
        assert set(reported) >= set(case.changes)
    else:
        losses = {path: loss for path, _, loss in case.changes}
        assert sorted(reported) == sorted(
            (
                path,
                action,
                next(r[2] for r in reported if r[0] == path)
                if loss == NEVER_MIND and any(r[0] == path for r in reported)
                else loss,
            )
            for path, action, loss in case.changes
        )
        assert losses.keys() == {path for path, _, _ in reported}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_a_rule_is_expected_to_give_is_accepted(case: Case) -> None:
    """Every expectation above is a body that Mistral's own packages accept."""
    expected = merged(base(case), case.given, case.expected)
    assert sdk.accepts(case.endpoint, expected) == []
    if case.endpoint == "chat":
        pytest.importorskip("mistral_common")
        assert sdk.common_accepts(expected) == []


# ------------------------------------------------------------------------------------------------------------- tool call ids


def ids(*messages: Json, **options: Any) -> list[str]:
    """The ids in the order in which they stand, calls and results alike."""
    out, changes, _ = filter_body(json.dumps({"model": "m", "messages": [USER, *messages]}).encode(), **options)
    assert all(change.loss == "none" for change in changes)
    found = []
    for message in json.loads(out)["messages"]:
        found += [call["id"] for call in message.get("tool_calls") or ()]
        if message["role"] == "tool":
            found.append(message["tool_call_id"])
    assert all(ID.fullmatch(id) for id in found)
    return found


def test_an_id_that_fits_stays() -> None:
    """Nine letters or digits are left alone."""
    assert ids(calls(call(FIT)), result(FIT)) == [FIT, FIT]


@pytest.mark.parametrize("id", ["call_1", "toolu_01abc", "a", "abcDEF1234", "abc DEF12", "äbcDEF123", "call_" + "a" * 60, "\n"])
def test_an_id_that_does_not_fit_is_made_to(id: str) -> None:
    """An id of any other form becomes nine letters or digits, on the call and its result alike, always the same ones."""
    a, b = ids(calls(call(id)), result(id))
    assert a == b
    assert ids(calls(call(id)), result(id), ANSWER, BYE) == [a, b]


def test_different_ids_stay_different() -> None:
    """A thousand calls have a thousand ids, the client's own fitting ones among them."""
    made = [f"call_{n}" for n in range(500)] + [f"{n:09}" for n in range(500)]
    found = ids(calls(*map(call, made)), *(result(id) for id in reversed(made)))
    assert len(set(found)) == 1000
    assert found[:1000] == found[1000:][::-1]
    assert found[500:1000] == made[500:]


def test_a_made_id_is_not_one_that_a_client_uses() -> None:
    """An id that happens to be what another one is turned into does not become the same."""
    turned = ids(calls(call("call_1")), result("call_1"))[0]
    first, second, *results = ids(calls(call("call_1"), call(turned)), result(turned), result("call_1"))
    assert first != second
    assert results == [second, first]
    first, second, *results = ids(calls(call(turned), call("call_1")), result(turned), result("call_1"))
    assert first != second
    assert results == [first, second]


@pytest.mark.parametrize("missing", [{}, {"id": None}, {"id": ""}, {"id": "null"}])
def test_a_missing_id_is_made(missing: Json) -> None:
    """A call without an id gets one, and results find their calls by name or by order."""
    one, two = ({"function": {"name": name, "arguments": "{}"}, **missing} for name in "fg")
    answer = {"role": "tool", "content": "r"}
    a, b, *results = ids(calls(one, two), answer, answer)
    assert a != b
    assert results == [a, b]
    a, b, *results = ids(calls(one, two), {**answer, "name": "g"}, {**answer, "name": "f"})
    assert results == [b, a]


def test_an_id_used_twice_is_told_apart() -> None:
    """Two calls of one message under the same id, which Mistral refuses, are two."""
    a, b, *results = ids(calls(call("call_1"), call("call_1")), result("call_1"), result("call_1"))
    assert a != b
    assert results == [a, b]
    a, b, *results = ids(calls(call(FIT), call(FIT)), result(FIT), result(FIT))
    assert a == FIT != b
    assert results == [a, b]


def test_an_id_used_again_in_a_later_turn_pairs_there() -> None:
    """Clients that number their calls anew in each turn keep their pairs."""
    found = ids(calls(call("0")), result("0"), ANSWER, BYE, calls(call("0"), call("1")), result("1"), result("0"))
    assert found[0] == found[1]
    assert found[2:4] == found[:-3:-1]


def test_ids_that_are_numbers_keep_their_pairs() -> None:
    """A client that writes ids as numbers, and whose results come in another order, still gets the right answers."""
    body = {"model": "m", "messages": [USER, calls(call(1), call(2)), result(2, "of 2"), result(1, "of 1")]}
    after = json.loads(filter_body(json.dumps(body).encode()).body)["messages"]
    first, second = (call["id"] for call in after[1]["tool_calls"])
    assert {message["tool_call_id"]: message["content"] for message in after[2:]} == {first: "of 1", second: "of 2"}


def test_the_legacy_form_of_a_call_pairs() -> None:
    """function_call and role function become a call and its result, with one id."""
    given = [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
        {"role": "function", "name": "f", "content": "r"},
    ]
    out, changes, _ = filter_body(json.dumps({"model": "m", "messages": [USER, *given]}).encode())
    body = json.loads(out)
    made = body["messages"][1]["tool_calls"][0]["id"]
    assert ID.fullmatch(made)
    assert body["messages"] == [USER, calls(call(made, arguments='{"a":1}')), result(made, name="f")]
    assert ("messages[1].function_call", "rename", "none") in [(c.path, c.action, c.loss) for c in changes]
    assert ("messages[2].role", "set", "none") in [(c.path, c.action, c.loss) for c in changes]


def test_nothing_said_between_a_call_and_its_result_does_not_part_them() -> None:
    """An empty assistant message, which goes, does not end the calls that are open."""
    legacy = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    a, b = ids(legacy, {"role": "assistant", "content": ""}, {"role": "function", "name": "f", "content": "r"})
    assert a == b


def test_two_items_with_one_call_id_are_two_calls() -> None:
    """What stands between their results is put behind both."""
    made = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    done = {"type": "function_call_output", "call_id": "c", "output": "r"}
    body = json.dumps({"model": "m", "input": [USER, made, made, done, BYE, done]}).encode()
    messages = json.loads(filter_body(body).body)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert [call["id"] for call in messages[1]["tool_calls"]] == [message["tool_call_id"] for message in messages[2:4]]


def test_two_legacy_calls_are_two() -> None:
    """The same function called in two turns has two ids."""
    made = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    a, b, c, d = ids(
        made, {"role": "function", "name": "f", "content": "1"}, made, {"role": "function", "name": "f", "content": "2"}
    )
    assert a == b != c == d


def test_a_custom_call_becomes_a_function_call() -> None:
    """What an agent called as a custom tool earlier stays in the conversation as a function call with the same input."""
    given = {"id": FIT, "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    out, _, _ = filter_body(json.dumps({"model": "m", "messages": [USER, calls(given), result()]}).encode())
    made = json.loads(out)["messages"][1]["tool_calls"][0]
    assert made.keys() == {"id", "type", "function"}
    assert (made["id"], made["type"], made["function"]["name"]) == (FIT, "function", "patch")
    assert "*** Begin" in json.dumps(made["function"]["arguments"])


# ------------------------------------------------------------------------------------------------- limits that are no limits


@pytest.mark.parametrize(("old", "new"), [(-1, 10), (10, -1), (-1, 0), (None, 10)])
def test_a_limit_that_says_nothing_never_replaces_one(old: int | None, new: int) -> None:
    """Of two limits the smaller one counts, but -1 and null are none: dropping the real one would lose a cost limit."""
    out, _, _ = filter_body(
        json.dumps({"model": "m", "messages": [USER], "max_tokens": old, "max_completion_tokens": new}).encode()
    )
    assert json.loads(out)["max_tokens"] == max(old or -1, new)


def test_a_negative_seed_is_dropped() -> None:
    """Mistral takes no negative seed; it goes, and is named as the client wrote it."""
    out, changes, _ = filter_body(json.dumps({"model": "m", "messages": [USER], "seed": -1}).encode())
    assert json.loads(out) == {"model": "m", "messages": [USER]}
    assert "seed" in [change.path for change in changes]


# ---------------------------------------------------------------------------------------------------- where nothing can be done


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(parts({"type": "file", "file": {"file_id": "file-abc"}})), "messages[0].content[0].file.file_id"),
        (chat(USER, ANSWER, parts(TEXT, {"type": "input_file", "file_id": "file-abc"})), "messages[2].content[1].file_id"),
        (chat(parts({"type": "input_image", "file_id": "file-abc"})), "messages[0].content[0].file_id"),
        (chat(parts({"type": "file", "file_id": "file-6F2ksmvXxt4VdoqmHRw6kL"})), "messages[0].content[0].file_id"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-abc"}]}]},
            "input[0].content[0].file_id",
        ),
    ],
)
def test_what_has_no_translation_is_a_clear_400(body: Json, param: str) -> None:
    """A file or a conversation that lies with OpenAI is refused, and the error names its place and what to do."""
    with pytest.raises(Refused) as caught:
        filter_body(json.dumps({"model": "m", **body}).encode())
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(f"{param}: ")
    assert "Send " in caught.value.message


# --------------------------------------------------------------------------------------------------- nothing goes unreported


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"input": "x", "instructions": None}, "instructions"),
        ({"input": "x", "previous_response_id": None}, "previous_response_id"),
        ({"input": "x", "conversation": None}, "conversation"),
        ({"input": "x", "reasoning": {"effort": "low", "summary": "auto"}}, "reasoning.summary"),
        ({"input": "x", "text": {"format": {"type": "json_object"}, "verbosity": "low"}}, "text.verbosity"),
        ({"input": [{"role": "user", "content": "x", "name": "n"}]}, "input[0].name"),
        ({"messages": [parts({"type": "input_text", "text": "x", "cache_control": {}})]}, "messages[0].content[0].cache_control"),
        (
            {"messages": [parts({"type": "input_audio", "input_audio": {"data": "AA==", "x": 1}})]},
            "messages[0].content[0].input_audio",
        ),
        ({"messages": [USER], "tools": [{"type": "function", "name": "f", "x": 1}]}, "tools[0].x"),
        (
            {"messages": [USER], "tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f", "x": 1}},
            "tool_choice.x",
        ),
        (
            {"messages": [USER], "prediction": {"type": "content", "content": [{**TEXT, "cache_control": {}}]}},
            "prediction.content",
        ),
    ],
)
def test_what_is_left_out_on_the_way_is_reported(given: Json, path: str) -> None:
    """A part of a translated piece that has no place in the new one is named, or the piece that it was in."""
    _, changes, _ = filter_body(json.dumps({"model": "m", **given}).encode(), fields="current")
    paths = [change.path for change in changes]
    assert path in paths


@pytest.mark.parametrize("value", ['[ "text" ]', "[\n]", "{ }", ' "" '])
def test_white_space_costs_nothing(value: str) -> None:
    """A value that changes nothing is reported as that however it is written."""
    body = f'{{"model":"m","messages":[{{"role":"user","content":"Hi"}}],"modalities":{value}}}'.encode()
    assert [(change.path, change.loss) for change in filter_body(body, strict=True).changes] == [("modalities", "none")]


def test_a_key_repeated_in_a_translated_part_is_reported() -> None:
    """The last one counts, and the report says that there was another."""
    part = b'{"type":"input_text","text":"a","text":"b"}'
    out, changes, _ = filter_body(b'{"model":"m","messages":[{"role":"user","content":[' + part + b"]}]}")
    assert json.loads(out)["messages"] == [parts({"type": "text", "text": "b"})]
    assert "messages[0].content[0].text" in [change.path for change in changes]


def test_what_is_allowed_keeps_its_name() -> None:
    """A field that the setting keeps is not renamed."""
    body = json.dumps({"model": "m", **chat(USER), "seed": 1}).encode()
    assert filter_body(body, allow=("seed",))[:2] == (body, ())


VERY_MANY = bodies(5000)


@pytest.mark.parametrize("name", VERY_MANY)
def test_a_body_of_very_many_parts_comes_out_right(name: str) -> None:
    """Every result answers a call of its own, however many there are. (How long it takes: ``benchmarks/growth.py``.)"""
    body = json.loads(filter_body(VERY_MANY[name]).body)
    assert body["model"] == "m"
    messages = body.get("messages", [])
    made = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    answered = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert len(made) == len(set(made))
    assert sorted(made) == sorted(answered)
    assert sdk.accepts("chat", body) == [] or not messages


def test_a_verbosity_that_is_lost_is_not_called_nothing() -> None:
    """Dropping ``text`` with a verbosity loses the verbosity, as dropping chat's own field does."""
    _, changes, _ = filter_body(json.dumps({"model": "m", "input": "x", "text": {"verbosity": "low"}}).encode())
    assert {change.loss for change in changes if change.path.startswith("text")} == {"lost"}


def test_an_input_that_is_no_input_is_not_thrown_away() -> None:
    """A Responses input of an unexpected type is left for the API to explain, or reported as lost."""
    out, changes, _ = filter_body(json.dumps({"model": "m", "input": 5}).encode())
    assert b"5" in out or ("input", "lost") in [(change.path, change.loss) for change in changes]


def test_parallel_calls_with_a_text_between_stay_together() -> None:
    """An answer's text beside its calls does not come between a call and its result."""
    pytest.importorskip("mistral_common")
    given = [
        USER,
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait"}]},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": "2"},
    ]
    body = json.loads(filter_body(json.dumps({"model": "m", "input": given}).encode()).body)
    assert sdk.accepts("chat", body) == []
    assert sdk.common_accepts(body) == []
