"""Random bodies that no client means: lists where objects belong, moved roles, several defects at once. Seeded, so repeatable."""

from __future__ import annotations

import json
import random
from typing import Any

Json = Any

WORDS = [
    "",
    "x",
    "user",
    "auto",
    "required",
    "null",
    "text",
    "function",
    "abcDEF123",
    "call_1",
    "\ud83d",
    "é",
    "data:a/b;base64,AA==",
]
KEYS = (
    "name id type role content text x cache_control refusal annotations image_url detail tool_calls function arguments prefix "
    "parameters strict schema json_schema signature thinking reasoning_content reasoning file index custom input _index"
).split()
TOP = (
    "temperature top_p max_tokens min_tokens stream stop random_seed safe_prompt n metadata parallel_tool_calls reasoning_effort "
    "service_tier presence_penalty max_completion_tokens max_output_tokens seed user store stream_options logit_bias logprobs "
    "verbosity prompt_mode guardrails prompt_cache_key thinking include_reasoning x"
).split()


MODELS = ("m", "magistral-small-latest", "mistral-small-latest", "zai-glm-5-3", "codestral-2508", "mistral-embed")


class Wild:
    """Makes bodies from one seed."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)

    def body(self) -> tuple[str, dict[str, Json]]:
        """An endpoint and a body for it."""
        dice = self._dice
        endpoint = dice.choice(["chat"] * 6 + ["agents", "chat/moderations", "chat/classifications", "fim", "embeddings", "ocr"])
        body: dict[str, Json] = {"agent_id" if endpoint == "agents" else "model": dice.choice(MODELS)}
        if endpoint in ("chat", "agents"):
            self._conversation(body)
        elif endpoint == "chat/moderations":
            body["input"] = self._strange(self._messages)
        elif endpoint == "chat/classifications":
            body["input"] = self._strange(lambda: {"messages": self._messages(), **self._extra()})
        elif endpoint == "ocr":
            kind = dice.choice(["document_url", "image_url", "file"])
            body["document"] = {"image_url": "u", "file_id": "f", **self._extra(), "type": kind}
        else:
            body["prompt" if endpoint == "fim" else "input"] = dice.choice(WORDS)
        for name in dice.sample(TOP, dice.randrange(4)):
            body[name] = self._any()
        items = list(body.items())
        dice.shuffle(items)
        return endpoint, dict(items)

    def raw(self) -> tuple[str, bytes]:
        """The same as bytes, in one of the ways in which clients write JSON."""
        endpoint, body = self.body()
        separators = self._dice.choice([(",", ":"), (", ", ": "), (" ,", " : ")])
        return endpoint, json.dumps(body, separators=separators).encode()

    def _conversation(self, body: dict[str, Json]) -> None:
        dice = self._dice
        if dice.random() < 0.15:
            body["input"] = dice.choice([dice.choice(WORDS), self._list(self._item, 5)])
            if dice.random() < 0.3:
                body["instructions"] = self._any()
            if dice.random() < 0.3:
                body["text"] = self._strange(lambda: {"format": self._strange(self._format), **self._extra()})
        else:
            body["messages"] = self._strange(self._messages, 0.04)
        makers = {
            "tools": lambda: self._list(self._tool),
            "tool_choice": self._choice,
            "functions": lambda: self._list(lambda: {"name": "f", "parameters": self._any(), **self._extra()}),
            "function_call": lambda: dice.choice(["auto", {"name": "f", **self._extra()}]),
            "response_format": self._format,
            "prediction": lambda: {"type": "content", "content": dice.choice(["x", self._list(self._part)]), **self._extra()},
            "reasoning": lambda: {"effort": dice.choice(["low", "max", None]), **self._extra()},
            "reasoning_effort": lambda: dice.choice(["none", "minimal", "medium", "max"]),
            "temperature": lambda: dice.choice([0, 0.0, -1, 1]),
            "top_p": lambda: dice.choice([0, 0.5, 1, 2]),
        }
        for name, make in makers.items():
            if dice.random() < 0.25:
                body[name] = self._strange(make)

    def _messages(self) -> list[Json]:
        return self._list(lambda: self._strange(self._message), 6)

    def _message(self) -> Json:
        dice = self._dice
        role = dice.choice(["system", "developer", "user", "assistant", "assistant", "tool", "function", "critic", 1])
        message: dict[str, Json] = {"role": role, **self._extra()}
        if dice.random() < 0.9:
            message["content"] = dice.choice([dice.choice(WORDS), None, [], self._list(lambda: self._strange(self._part))])
        if role == "assistant" or dice.random() < 0.1:
            for name, make in {
                "tool_calls": lambda: self._list(lambda: self._strange(self._call)),
                "function_call": lambda: {"name": "f", "arguments": "{}", **self._extra()},
                "reasoning_content": lambda: dice.choice(WORDS),
                "reasoning_details": lambda: self._list(lambda: {"type": "reasoning.text", "text": dice.choice(WORDS)}),
                "refusal": lambda: dice.choice(["No.", None]),
                "prefix": lambda: dice.choice([True, False, None]),
            }.items():
                if dice.random() < 0.25:
                    message[name] = self._strange(make)
        if role in ("tool", "function") or dice.random() < 0.05:
            message["tool_call_id"] = dice.choice(WORDS)
        return message

    def _part(self) -> Json:
        dice = self._dice
        kind = dice.choice(
            "text text input_text output_text refusal image_url input_image file input_file input_audio thinking reasoning "
            "reference document_url resource resource_link redacted_thinking zzz".split()
        )
        part: dict[str, Json] = {"type": kind, **self._extra()}
        for name, make in {
            "text": lambda: dice.choice(WORDS),
            "refusal": lambda: "No.",
            "image_url": lambda: self._strange(
                lambda: {"url": "u", "detail": dice.choice(["low", "original", "x"]), **self._extra()}
            ),
            "file": lambda: {"file_data": dice.choice(WORDS), "filename": "a.pdf", **self._extra()},
            "input_audio": lambda: {"data": "AA==", "format": "wav", **self._extra()},
            "thinking": lambda: dice.choice(["Hm", self._list(lambda: {"type": "text", "text": "Hm", **self._extra()})]),
            "document_url": lambda: "u",
            "reference_ids": lambda: [1],
            "uri": lambda: "u",
            "content": lambda: {"type": dice.choice(["text", "image_url"]), "text": "t", **self._extra()},
        }.items():
            if name in kind or (kind == "resource" and name in ("uri", "content")) or dice.random() < 0.08:
                part[name] = make()
        return part

    def _call(self) -> Json:
        call = {"id": self._dice.choice(WORDS), "type": self._dice.choice(["function", "custom", None]), **self._extra()}
        call["function"] = self._strange(lambda: {"name": "f", "arguments": self._dice.choice(["{}", None, {}]), **self._extra()})
        if self._dice.random() < 0.2:
            call["custom"] = {"name": "c", "input": "x", **self._extra()}
        return call

    def _tool(self) -> Json:
        dice = self._dice
        kind = dice.choice(["function", "function", "custom", "web_search", "document_library", "connector", "namespace", None])
        tool: dict[str, Json] = {**({} if kind is None else {"type": kind}), **self._extra()}
        if kind == "namespace":
            return {
                **tool,
                "name": dice.choice(WORDS),
                "tools": self._strange(lambda: self._list(lambda: self._strange(self._tool))),
            }
        function = {"name": "f", "parameters": dice.choice([{}, None, {"$schema": "x", "type": "object"}]), **self._extra()}
        if dice.random() < 0.7:
            tool["function"] = self._strange(lambda: function)
        else:
            tool |= function
        for name in ("tool_configuration", "authorization"):
            if dice.random() < 0.15:
                tool[name] = self._strange(lambda: {"type": "x", "value": "x", "exclude": [], **self._extra()})
        return tool

    def _choice(self) -> Json:
        tools = self._list(lambda: {"type": "function", "name": "f", **self._extra()})
        return self._dice.choice(
            [
                "auto",
                {"type": "function", "name": "f", **self._extra()},
                {"type": "function", "function": {"name": "f", **self._extra()}},
                {"type": "allowed_tools", "mode": "auto", "tools": tools, **self._extra()},
                {"type": self._dice.choice(["auto", "custom", "web_search"]), **self._extra()},
            ]
        )

    def _format(self) -> Json:
        inner = {"name": "n", "schema": self._dice.choice([{}, None, {"$id": "x"}]), **self._extra()}
        kind = self._dice.choice(["text", "json_object", "json_schema"])
        return self._dice.choice(
            [{"type": kind, "json_schema": self._strange(lambda: inner), **self._extra()}, {"type": kind, **inner}]
        )

    def _item(self) -> Json:
        kind = self._dice.choice(
            ["message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning", "x"]
        )
        message = self._message()
        item = {**(message if isinstance(message, dict) else {}), "type": kind, "call_id": self._dice.choice(WORDS)}
        more = {"name": "f", "arguments": "{}", "output": self._any(), "input": "x"}
        if self._dice.random() < 0.2:
            more["namespace"] = self._dice.choice([*WORDS, None])
        if kind == "reasoning":
            more["summary"] = self._list(lambda: {"type": "summary_text", "text": self._dice.choice(WORDS)})
        return self._strange(lambda: {**item, **more})

    def _extra(self) -> dict[str, Json]:
        """Mostly nothing; sometimes a key that may not belong there."""
        return {self._dice.choice(KEYS): self._any()} if self._dice.random() < 0.15 else {}

    def _strange(self, make: Any, chance: float = 0.08) -> Json:
        """What *make* makes; sometimes in a list, or something else."""
        if self._dice.random() >= chance:
            return make()
        return self._dice.choice([[make()], [[make()]], [[[make()]]], {"x": make()}, self._any(), [make(), self._any()]])

    def _list(self, make: Any, most: int = 3) -> list[Json]:
        return [make() for _ in range(self._dice.randrange(most + 1))]

    def _any(self) -> Json:
        dice = self._dice
        return dice.choice(
            [
                None,
                True,
                False,
                0,
                1,
                -1,
                2.5,
                1e9,
                dice.choice(WORDS),
                [],
                {},
                ["x"],
                [[]],
                {"x": 1},
                [{"type": "text", "text": "t"}],
            ]
        )
