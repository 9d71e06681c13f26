"""The items of a Responses request in Mistral's forms, one by one: messages, calls, results, reasoning.

Chat's messages may stand among them, so a chat body is translated by the same walk. What Mistral's API has no item for becomes a
function call where the client carried it out, a text where OpenAI did and the conversation would lose what came of it, and goes
otherwise. Between a call and its result no message may stand, and each call has one result.
"""

from __future__ import annotations

from typing import Any

from mistral_filter.dialect.response_calls import CallKey, Pairs, call_item, chat_call, chat_calls, kind_of, result_item
from mistral_filter.dialect.response_parts import complete_answer, input_parts, numbered, part_text
from mistral_filter.dialect.thoughts import NOT_READ, TEXT_NAMES, THOUGHT_TYPES, fed_back, thought
from mistral_filter.dialect.values import json_text, note_rest
from mistral_filter.errors import Refused
from mistral_filter.fields import FOREIGN_ITEMS, FOREIGN_RESULTS, RESPONSE_ITEMS, RESPONSE_MESSAGES, RESPONSE_PARTS
from mistral_filter.judge import Judge
from mistral_filter.parts import Array, Object, Part, Position
from mistral_filter.rawjson import as_text
from mistral_filter.toolnames import ToolNames

__all__ = ["foreign_item", "response_items", "stored_item"]

_NO_OUTPUT = ""
"""The result of a call that never got one."""


def response_items(items: Array, judge: Judge, *, reads_reasoning: bool, names: ToolNames) -> None:
    """Translates a list of *items* in place and has each judged by *judge*.

    *reads_reasoning*: the model reads earlier reasoning. *names*: the names of tools that are replaced in the request. Raises
    Refused for an item or a file that is stored elsewhere.
    """
    _Walk(items, judge, reads_reasoning=reads_reasoning, names=names).run()


class _Walk:
    """One pass over the items, from the first to the last."""

    def __init__(self, items: Array, judge: Judge, *, reads_reasoning: bool, names: ToolNames) -> None:
        self._items, self._judge, self._reads_reasoning, self._names = items, judge, reads_reasoning, names
        self._pairs = Pairs(items)
        self._out: list[int | Part] = []
        """All items as they go out: the number of one that came, or a new one."""
        self._open: dict[CallKey, None] = {}
        """Calls without their result so far, in order."""
        self._done: set[int] = set()
        """Results that have been put before messages."""
        self._furthest = -1

    def run(self) -> None:
        for index in range(len(self._items.items)):
            if index in self._done:
                continue
            item = self._items.part(index)
            if isinstance(item, Object):
                self._item(item, index)
            else:
                self._end_calls()
                self._out.append(index)
            self._items.close(index)
        self._end_calls()
        if self._items.position.edited:
            items = self._items.items
            self._items.items = [items[item] if isinstance(item, int) else item for item in self._out]

    def _item(self, item: Object, index: int) -> None:
        kind = kind_of(item)
        if kind == "message":
            self._message(item, index)
        elif kind == "call":
            call_item(item, self._pairs.id_of[index, 0])
            self._append_call(item, index, 0)
        elif kind == "result" and index in self._pairs.call_of:
            self._result(item, index)
        elif kind == "result":
            _as_message(item)
            _settle(item)
            self._append_message(item, index)
        elif kind == "reasoning":
            _reasoning(item, index)
            self._append(item, index, RESPONSE_ITEMS["reasoning"])
        elif kind == "part":
            note_path = item.at("type")
            item.become({"role": "user", "content": [item.fields]}, "rename", note_path, "a part is no item", to="message")
            _settle(item)
            self._append_message(item, index)
        elif kind == "item_reference":
            raise stored_item(item.path)
        else:
            self._foreign(item, index, kind)

    # ------------------------------------------------------------------------------------------------- order

    def _append(self, item: Object, index: int | None, table: Any) -> None:
        self._judge.message(item, table)
        self._out.append(item if index is None else index)

    def _append_call(self, call: Object, index: int, number: int, *, is_item: bool = True) -> None:
        self._names.fit(call)
        self._names.fit(call, "namespace")
        self._append(call, index if is_item else None, RESPONSE_ITEMS["function_call"])
        self._open[index, number] = None

    def _append_message(self, item: Object, index: int) -> None:
        """Puts a message behind the results of the calls before it."""
        self._end_calls()
        if index < self._furthest:
            reason = "no message may stand between calls and their results"
            self._items.note("move", self._items.at(index), reason, "approximate", "input")
        self._append(item, index, RESPONSE_MESSAGES[_form(item)])

    def _end_calls(self) -> None:
        """Gives every open call its result, which may be further down or nowhere."""
        calls, self._open = self._open, {}
        results = {key: self._pairs.result_of[key] for key in calls if key in self._pairs.result_of}
        for index in sorted(results.values()):
            item = self._items.part(index)
            assert isinstance(item, Object)
            self._result(item, index)
            self._items.close(index)
        for key in calls:
            if key not in results:
                path = f"input[{len(self._out)}]"
                self._items.note("insert", path, "a result for a call that has none", "approximate")
                output = {"type": "function_call_output", "call_id": self._pairs.id_of[key], "output": _NO_OUTPUT}
                self._out.append(self._items.document.new(output, Position(self._items.position, len(self._out))))

    def _result(self, item: Object, index: int) -> None:
        key = self._pairs.call_of[index]
        result_item(item, self._pairs.id_of[key])
        self._append(item, index, RESPONSE_ITEMS["function_call_output"])
        self._done.add(index)
        self._furthest = max(self._furthest, index)
        self._open.pop(key, None)

    # ------------------------------------------------------------------------------------------------- messages

    def _message(self, item: Object, index: int) -> None:
        if item.text("role") != "assistant":
            _settle(item)
            self._append_message(item, index)
            return
        self._thoughts(item, index)
        if item.text("refusal") and _is_empty(item):
            item.rename("refusal", "content", "the answer was this refusal")
        calls = chat_calls(item)
        if not _is_empty(item):
            _settle(item)
        if not _is_empty(item):
            item.fields.pop("tool_calls", None)  # each is noted below
            self._append_message(item, index)
        elif calls is None:
            self._items.drop(index, "Mistral refuses an empty assistant message")
        else:
            note_rest(item, ("type", "role", "content", "tool_calls"))
        for number, call in enumerate(calls.objects() if calls is not None else ()):
            chat_call(call, self._pairs.id_of[index, number])
            self._append_call(call, index, number, is_item=False)

    def _thoughts(self, item: Object, index: int) -> None:
        """Earlier reasoning in chat's forms is an item of its own, before the answer."""
        text = fed_back(item, reads=self._reads_reasoning)
        content = item.array("content")
        texts = []
        for number, part in numbered(content) if content is not None else ():
            if content is not None and part.text("type") in THOUGHT_TYPES:
                texts.append(_thought(part))
                content.drop(number, "reasoning is an item of its own" if self._reads_reasoning else NOT_READ)
        text = "".join(texts) if text is None and self._reads_reasoning else text
        if not text:
            return
        self._end_calls()
        fields = {"type": "reasoning", "id": f"rs_{index}", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}
        self._items.note("insert", f"input[{len(self._out)}]", "the reasoning of the answer behind it")
        self._out.append(self._items.document.new(fields, Position(self._items.position, len(self._out))))

    # ------------------------------------------------------------------------------------------------- other items

    def _foreign(self, item: Object, index: int, kind: str) -> None:
        if foreign_item(item, kind):
            self._append_message(item, index)
        else:
            self._items.drop(index, "Mistral has no items of this type", FOREIGN_ITEMS.get(kind, "lost"))


def foreign_item(item: Object, kind: str) -> bool:
    """Makes an assistant's message of an *item* whose *kind* Mistral does not have; False: it has no result to tell of."""
    result = FOREIGN_RESULTS.get(kind)
    if result is None or not any(item.has(key) for key in result.came):
        return False
    said = {key: item.fields[key] for key in (*result.asked, *result.came) if item.has(key)}
    message = {"role": "assistant", "content": f"[{kind}] {json_text(said)}"}
    reason = "Mistral has no items of this type: what came of it is a text"
    item.become(message, "set", item.path, reason, "approximate", to="message")
    return True


def stored_item(path: str) -> Refused:
    """The error for a reference at *path* to an item that OpenAI has stored."""
    return Refused(
        f"{path}: Mistral stores no responses, so it has no item to refer to. Send the items themselves: with store off, clients "
        "send the whole conversation in each request (store=False; in the AI SDK providerOptions: {openai: {store: false}}).",
        param=path,
        code="stateful_conversation",
    )


# ------------------------------------------------------------------------------------------------- one message


def _settle(item: Object) -> None:
    """The content of a message as one of the three forms has it."""
    answers = item.text("role") == "assistant"
    if not item.has("content"):
        insert = item.set if "content" in item.fields else item.insert
        insert("content", "", "Mistral requires it")
    content = item.array("content")
    if content is None:
        return
    if not answers:
        input_parts(content, detail=True)
        return
    parts = list(content.objects())
    kinds = {part.text("type") for part in parts}
    if kinds <= {"output_text", "refusal"} and _is_answer(item, parts, len(content.items)):
        complete_answer(content)
    elif kinds and kinds <= RESPONSE_PARTS.keys():
        input_parts(content, detail=True)
    else:
        texts = []
        for index, part in numbered(content):
            text = part_text(part)
            if text is None:
                content.drop(index, "an answer is text only", "lost")
            else:
                texts.append(text)
        item.set("content", "".join(texts), "an earlier answer without id and status is a plain message")


def _is_answer(item: Object, parts: list[Object], count: int) -> bool:
    """Whether an assistant's message has all that Mistral requires of an earlier answer."""
    status = RESPONSE_MESSAGES["answer"].fields["status"]
    return (
        item.text("id") is not None
        and item.text("status") in getattr(status, "choices", ())
        and 0 < len(parts) == count
        and all(part_text(part) is not None for part in parts)
    )


def _form(item: Object) -> str:
    """The form of a settled message, a key of RESPONSE_MESSAGES."""
    content = item.array("content")
    if content is None:
        return "plain"
    if item.text("role") == "assistant":
        kinds = {part.text("type") for part in content.objects()}
        return "answer" if kinds and kinds <= {"output_text", "refusal"} else "plain"
    return "input" if item.has("status") and not item.has("phase") else "plain"


def _is_empty(item: Object) -> bool:
    """Whether a message says nothing."""
    content = item.array("content")
    if content is not None:
        return content.is_empty() or all(part_text(part) == "" for part in content.parts())
    return not item.has("content") or item.text("content") == ""


def _thought(part: Object) -> str:
    text = thought(part, part.text("type") or "", *TEXT_NAMES)
    return as_text(text) or ""


def _as_message(item: Object) -> None:
    """A result whose call is not there is what a user says."""
    result_item(item, "")
    message = {"role": "user", "content": item.fields["output"]}
    item.become(message, "set", item.path, "there is no call that this result answers", "approximate", to="message")


# ------------------------------------------------------------------------------------------------- reasoning


def _reasoning(item: Object, index: int) -> None:
    """A reasoning item with an id, a summary and a content as Mistral requires them."""
    if item.text("id") is None:
        insert = item.set if "id" in item.fields else item.insert
        insert("id", f"rs_{index}", "Mistral requires an id")
    for key, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        text, parts = item.text(key), item.array(key)
        if text is not None:
            item.set(key, [{"type": kind, "text": text}] if text else [], "Mistral takes a list of texts")
        elif parts is not None:
            for number, part in numbered(parts):
                words = part_text(part)
                if words is None:
                    parts.drop(number, "only text can stand here", "lost")
                elif part.has("type") and part.text("type") != kind:
                    note_rest(part, ("type", "text"))
                    part.become({"type": kind, "text": words}, "rename", part.at("type"), "the name here", to=kind)
        elif key == "summary":
            insert = item.set if key in item.fields else item.insert
            insert(key, [], "Mistral requires the list")
