"""The items of a Responses request in Mistral's forms, one by one: messages, calls, results, reasoning.

Chat's messages may stand among them, so a chat body is translated by the same walk. What Mistral's API has no item for becomes a
function call where the client carried it out, a text where OpenAI did and the conversation would lose what came of it, and goes
otherwise. Between a call and its result no message may stand, and each call has one result.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from mistral_filter.dialect.response_parts import TEXT_KEYS, complete_answer, input_parts, numbered, part_text
from mistral_filter.dialect.thoughts import NOT_READ, TEXT_NAMES, THOUGHT_TYPES, fed_back, thought
from mistral_filter.dialect.values import note_rest
from mistral_filter.errors import Refused
from mistral_filter.fields import FOREIGN_CALLS, FOREIGN_ITEMS, FOREIGN_RESULTS, RESPONSE_ITEMS, RESPONSE_MESSAGES, RESPONSE_PARTS
from mistral_filter.judge import Judge
from mistral_filter.parts import Array, Object, Part, Position, encode
from mistral_filter.rawjson import NULL, Node, as_text
from mistral_filter.toolnames import ToolNames

__all__ = ["FOREIGN_OUTPUTS", "call_item", "foreign_item", "item_type", "response_items", "result_item", "stored_item"]

FOREIGN_OUTPUTS = frozenset(call.output for call in FOREIGN_CALLS.values())
"""The types of the items with their results."""
_NO_OUTPUT = ""
"""The result of a call that never got one."""
_Key = tuple[int, int]
"""A call: the number of its item, and its own number where that is a chat message with several."""


def response_items(items: Array, judge: Judge, *, reads_reasoning: bool, names: ToolNames) -> None:
    """Translates a list of *items* in place and has each judged by *judge*.

    *reads_reasoning*: the model reads earlier reasoning. *names*: the names of tools that are replaced in the request. Raises
    Refused for an item or a file that is stored elsewhere.
    """
    _Walk(items, judge, reads_reasoning=reads_reasoning, names=names).run()


class _Pairs:
    """Which result answers which call; found before anything is translated, because a result can come late."""

    def __init__(self, items: Array) -> None:
        self.id_of: dict[_Key, str] = {}
        """Every call's id."""
        self.result_of: dict[_Key, int] = {}
        """The number of the item with its result; not there: none came."""
        self.call_of: dict[int, _Key] = {}
        """The other way round."""
        given: list[tuple[int, list[str | None], str | None, bool]] = []
        for index, item in items.each():
            kind = _kind(item)
            ids = _call_ids(item, kind)
            given.append((index, ids, _result_id(item, kind), kind == "result"))
        named = Counter(id for _, _, id, is_result in given if is_result and id is not None)
        waiting: dict[str, deque[_Key]] = {}
        unnamed: deque[_Key] = deque()
        for index, ids, result_id, is_result in given:
            for number, id in enumerate(ids):
                key = (index, number)
                self.id_of[key] = id or f"call_{index}_{number}"
                queue = waiting.setdefault(self.id_of[key], deque())
                (queue if len(queue) < named[id or ""] else unnamed).append(key)
            if not is_result:
                continue
            if result_id is not None:
                named[result_id] -= 1
            calls = unnamed if result_id is None else waiting.get(result_id)
            if calls:
                key = calls.popleft()
                self.result_of[key], self.call_of[index] = index, key


class _Walk:
    """One pass over the items, from the first to the last."""

    def __init__(self, items: Array, judge: Judge, *, reads_reasoning: bool, names: ToolNames) -> None:
        self._items, self._judge, self._reads_reasoning, self._names = items, judge, reads_reasoning, names
        self._pairs = _Pairs(items)
        self._out: list[int | Part] = []
        """All items as they go out: the number of one that came, or a new one."""
        self._open: dict[_Key, None] = {}
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
        kind = _kind(item)
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
        calls = _chat_calls(item)
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
            _chat_call(call, self._pairs.id_of[index, number])
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
    message = {"role": "assistant", "content": f"[{kind}] {_json(said)}"}
    reason = "Mistral has no items of this type: what came of it is a text"
    item.become(message, "set", item.path, reason, "approximate", to="message")
    return True


# ------------------------------------------------------------------------------------------------- kinds and ids


def item_type(item: Object) -> str:
    """The type of an item; without one it is a message or, if it has an id only, a reference (OpenAI's reference, 2026-11)."""
    only_refers = "id" in item.fields and not item.has("role") and not item.has("content")
    return item.text("type") or ("item_reference" if only_refers else "message")


def stored_item(path: str) -> Refused:
    """The error for a reference at *path* to an item that OpenAI has stored."""
    return Refused(
        f"{path}: Mistral stores no responses, so it has no item to refer to. Send the items themselves: with store off, clients "
        "send the whole conversation in each request (store=False; in the AI SDK providerOptions: {openai: {store: false}}).",
        param=path,
        code="stateful_conversation",
    )


def _kind(item: Object) -> str:
    """What an item is: message, call, result, reasoning, part, or the type of one that Mistral has not."""
    kind = item_type(item)
    if kind == "message":
        return "result" if item.text("role") in ("tool", "function") else "message"
    if kind == "function_call" or kind in FOREIGN_CALLS:
        return "call"
    if kind == "function_call_output" or kind in FOREIGN_OUTPUTS:
        return "result"
    return "part" if kind in TEXT_KEYS or kind in RESPONSE_PARTS or kind == "image_url" else kind


def _call_ids(item: Object, kind: str) -> list[str | None]:
    """The ids of the calls in an item; None for one without."""
    if kind == "call":
        return [_id(item, "call_id") or _id(item, "id")]
    if kind != "message" or item.text("role") != "assistant":
        return []
    calls = item.array("tool_calls")
    if calls is not None and calls.items:
        return [_id(call, "id") for call in calls.objects()]
    return [None] if item.object("function_call") is not None else []


def _result_id(item: Object, kind: str) -> str | None:
    if kind != "result":
        return None
    own = _id(item, "id") if item.text("type") == "local_shell_call_output" else None  # OpenAI's name for it there
    return _id(item, "call_id") or _id(item, "tool_call_id") or own


def _id(part: Object, key: str) -> str | None:
    number = part.number(key)  # some clients count
    return (part.text(key) if number is None else str(number)) or None


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


# ------------------------------------------------------------------------------------------------- calls and results


def call_item(item: Object, id: str) -> None:
    """A call as ``function_call`` with the *id* and a text of arguments."""
    kind = item.text("type") or ""
    if kind in FOREIGN_CALLS:
        foreign = FOREIGN_CALLS[kind]
        given = {key: item.fields[key] for key in foreign.arguments if item.has(key)}
        arguments = given if foreign.nested else next(iter(given.values()), {})
        name = foreign.name or item.fields.get("name", NULL)
        fields = {"type": "function_call", "call_id": id, "name": name, "arguments": encode(arguments).decode()}
        if item.has("namespace"):
            fields["namespace"] = item.fields["namespace"]
        item.become(fields, "rename", item.at("type"), "Mistral knows function calls only", "approximate", to="function_call")
        return
    if item.text("call_id") != id:
        item.set("call_id", id, "Mistral requires an id")
    _text_arguments(item)


def _text_arguments(item: Object) -> None:
    if not item.has("arguments"):
        item.set("arguments", "{}", "Mistral requires arguments")
    elif item.text("arguments") is None:
        item.set("arguments", _json(item.fields["arguments"]), "Mistral takes the arguments as a text")


def _chat_calls(item: Object) -> Array | None:
    """The tool calls of a chat message; an older ``function_call`` becomes one."""
    calls = item.array("tool_calls")
    if calls is not None and calls.items:
        return calls
    if calls is not None or "tool_calls" in item.fields:
        item.drop("tool_calls", "there are none")
    function = item.object("function_call")
    if function is None:
        return None
    item.rename("function_call", "tool_calls", "OpenAI's older name")
    item.fields["tool_calls"] = [{"type": "function", "function": function}]
    return item.array("tool_calls")


def _chat_call(call: Object, id: str) -> None:
    """A tool call of a chat message as an item."""
    custom = call.object("custom")
    function = custom or call.object("function")
    used = "custom" if custom is not None else "function"
    note_rest(call, ("id", "type", "index", used))
    fields: Node = {"type": "function_call", "call_id": id}
    if function is not None:
        note_rest(function, ("name", "arguments", "input"))
        fields["name"] = function.fields.get("name", NULL)
        if custom is not None:
            fields["arguments"] = encode({"input": custom.fields.get("input", NULL)}).decode()
        elif function.has("arguments"):
            fields["arguments"] = function.fields["arguments"]
    loss = "none" if custom is None else "approximate"
    call.become(fields, "rename", call.path, "the form of the Responses API", loss, to="function_call")  # type: ignore[arg-type]
    if as_text(fields.get("arguments")) is None:
        _text_arguments(call)


def result_item(item: Object, id: str) -> None:
    """A result as ``function_call_output`` for the call *id*, with a text or a list of parts."""
    kind = item.text("type")
    if kind == "function_call_output":
        if item.text("call_id") != id and id:
            item.set("call_id", id, "the id of the call that it answers")
    elif kind in FOREIGN_OUTPUTS:
        fields = {"type": "function_call_output", "call_id": id, "output": item.fields.get("output", NULL)}
        item.become(
            fields, "rename", item.at("type"), "Mistral knows function calls only", "approximate", to="function_call_output"
        )
        screenshot = item.object("output")
        if screenshot is not None and screenshot.has("image_url"):
            item.fields["output"] = [{"type": "input_image", "image_url": screenshot.fields["image_url"]}]
    else:  # chat's message of a tool
        note_rest(item, ("role", "content", "tool_call_id", "name"))
        fields = {"type": "function_call_output", "call_id": id, "output": item.fields.get("content", NULL)}
        item.become(fields, "rename", item.at("role"), "the form of the Responses API", to="function_call_output")
    if not item.has("output"):
        item.set("output", "", "Mistral requires it")
    output = item.array("output")
    if output is not None and all(isinstance(part, Object) and _is_part(part) for part in _each(output)):
        input_parts(output, detail=False)
    elif item.text("output") is None:
        item.set("output", _json(item.fields["output"]), "Mistral takes the result as a text")


def _each(array: Array) -> list[Part | None]:
    return [array.part(index) for index in range(len(array.items))]


def _is_part(part: Object) -> bool:
    kind = part.text("type")
    return kind in RESPONSE_PARTS or kind in TEXT_KEYS or kind in ("image_url", "file", "document_url")


def _json(value: Any) -> str:
    text = as_text(value)
    return encode(value).decode() if text is None else text


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
