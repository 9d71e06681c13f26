"""A document: parts that know where they stood, edits that report themselves, bytes that stay, and a bounded amount of work."""

from __future__ import annotations

import contextlib
import gc
import json
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from mistral_filter import document, filter_body, filtering
from mistral_filter.document import BUDGET, ROOM, ROOM_FOR_EACH_BYTE, Document
from mistral_filter.errors import MistralFilterError, TooComplex, TooDeep
from mistral_filter.parsing import check_depth, parse, survey
from mistral_filter.parts import Array, Object, encode
from mistral_filter.plain import is_plain, read_plain
from mistral_filter.surrogates import Surrogates

USER = b'{"role":"user","content":"Hi"}'


def opened(body: bytes) -> Object:
    return Document(body).top(parse(body), body)


# ------------------------------------------------------------------------------------------------------------------- editing


def test_a_part_knows_where_it_stood() -> None:
    """Paths are those of the request as it came, whatever has been left out or renamed on the way."""
    root = opened(b'{"messages":[{"role":"user"},{"content":[{"type":"x"},{"type":"y"}]}]}')
    messages = root.array("messages")
    assert messages is not None
    messages.drop(0, "a reason")
    message = messages.part(1)
    assert isinstance(message, Object)
    content = message.array("content")
    assert content is not None
    part = content.part(1)
    assert part is not None
    assert part.path == "messages[1].content[1]"
    root.rename("messages", "input", "a reason")
    assert part.at("type") == "messages[1].content[1].type"


@pytest.mark.parametrize("spaces", [(",", ":"), (", ", ": "), (" ,", ":  ")])
def test_only_what_is_edited_is_written_anew(spaces: tuple[str, str]) -> None:
    """One edit deep inside rewrites the parts that hold it; every part beside them keeps its bytes."""
    items = [{"a": 1.10, "b": {"c": [1]}}, {"a": 2, "b": {"c": [2]}}, {"a": 3}]
    body = json.dumps({"keep": items, "list": items}, separators=spaces).encode()
    root = opened(body)
    array = root.array("list")
    assert array is not None
    for item in array.objects():
        assert item.object("b") is None or item.number("a") is not None
    second = array.part(1)
    assert isinstance(second, Object)
    second.set("a", 9, "a reason")
    written = encode(root)
    kept = [json.dumps(one, separators=spaces).encode() for one in (items, items[0], items[2], items[1]["b"])]
    assert all(one in written for one in kept)
    assert json.loads(written) == {"keep": items, "list": [items[0], {**items[1], "a": 9}, items[2]]}
    assert [(c.action, c.path) for c in root.document.changes] == [("set", "list[1].a")]


def test_nothing_edited_is_nothing_written_anew() -> None:
    """Looking into every part changes no byte."""
    body = b' {"a": [ {"b" : 1.10 } , [ ] ],"c":[{"d":1},{"d":2}] } '
    root = opened(body)
    for name in ("a", "c"):
        array = root.array(name)
        assert array is not None
        assert [part.path for part in array.parts()] == [f"{name}[0]", f"{name}[1]"]
    assert not root.position.edited
    assert encode(root) == body


def test_every_edit_is_noted() -> None:
    """Each way to edit gives its change, with the reason and the loss that were given."""
    root = opened(b'{"a":1,"b":2,"c":3,"d":{"x":1},"e":[{"f":1},2]}')
    root.drop("a", "r1", "lost")
    root.set("b", 5, "r2")
    root.insert("n", 6, "r3")
    root.rename("c", "m", "r4", "approximate")
    part, array = root.object("d"), root.array("e")
    assert isinstance(part, Object)
    assert isinstance(array, Array)
    part.become({"y": 2}, "set", part.path, "r5", to="y")
    array.drop(1, "r6")
    array.take(0, "r7", "approximate", "elsewhere")
    assert [tuple(change) for change in root.document.changes] == [
        ("drop", "a", "r1", "lost", None),
        ("set", "b", "r2", "none", None),
        ("insert", "n", "r3", "none", None),
        ("rename", "c", "r4", "approximate", "m"),
        ("set", "d", "r5", "none", "y"),
        ("drop", "e[1]", "r6", "none", None),
        ("move", "e[0]", "r7", "approximate", "elsewhere"),
    ]
    assert json.loads(encode(root)) == {"b": 5, "n": 6, "m": 3, "d": {"y": 2}, "e": []}


# ------------------------------------------------------------------------------------------------------------- repeated keys

KEYS = st.sampled_from(["role", "content", "a", "b", "%", "é", '"', "\\", "\x1f", "\U0001f600"])
PAIRS = st.lists(st.tuples(KEYS, st.sampled_from(["1", '"x"', "null", '{"a":1,"a":2}', '", "'])), min_size=1, max_size=5)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    st.lists(PAIRS, min_size=1, max_size=3), st.sampled_from([(",", ":"), (", ", ": "), (" , ", ":"), (",", ": ")]), st.booleans()
)
def test_repeated_keys_are_found_exactly(objects: list[Any], spaces: tuple[str, str], ascii_only: bool) -> None:
    """The keys that a pair parser sees twice are noted, at their object, and no others, however the JSON is spaced."""
    objects = [[(key, value if value != '", "' else '", "') for key, value in pairs] for pairs in objects]
    written = [
        "{" + spaces[0].join(json.dumps(key, ensure_ascii=ascii_only) + spaces[1] + value for key, value in pairs) + "}"
        for pairs in objects
    ]
    root = opened(f'{{"list":[{spaces[0].join(written)}]}}'.encode())
    array = root.array("list")
    assert array is not None
    list(array.objects())
    keys = [[key for key, _ in pairs] for pairs in objects]
    expected = [f"list[{n}].{key}" for n, some in enumerate(keys) for key in dict.fromkeys(some) if some.count(key) > 1]
    assert [change.path for change in root.document.changes] == expected
    assert json.loads(encode(root)) == {"list": [dict(json.loads(text)) for text in written]}


# ------------------------------------------------------------------------------------------------------- plain conversations

ROLES = st.sampled_from(["system", "user", "assistant", "user", "tool", "developer"])
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": ROLES, "content": st.sampled_from(["Hi", "", "é", "a\\b"])}, optional={"name": st.just("n")})
    | st.fixed_dictionaries({"content": st.just("x"), "role": ROLES}),
    max_size=5,
)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(MESSAGES, st.sampled_from([(",", ":"), (", ", ": "), (" ,", ":")]))
def test_a_plain_conversation_is_one_that_the_long_way_leaves_alone(messages: list[Any], spaces: tuple[str, str]) -> None:
    """What is taken for plain comes through unchanged the long way too."""
    raw = json.dumps(messages, separators=spaces).encode()
    plain = is_plain(Raw(raw))
    spoiled = b'{"model":"m","messages":' + raw[:-1] + (b"," if messages else b"") + b'{"content":[],"role":"user"}]}'
    filtered = filter_body(spoiled)  # the long way, because of the last message
    if plain:
        assert filtered[:2] == (spoiled, ())
    allowed = [
        m for m in messages if m.keys() == {"role", "content"} and m["role"] in ("system", "user", "assistant") and m["content"]
    ]
    orderly = all((a["role"], b["role"]) != ("assistant", "system") for a, b in pairwise(messages))
    simple = len(allowed) == len(messages) > 0 and orderly and messages[-1]["role"] == "user" and spaces != (" ,", ":")
    assert plain or not simple or spaces == (", ", ": ")


def test_plain_is_what_most_requests_are() -> None:
    """The short way is taken for compact and for spaced JSON, and not where a key is repeated."""
    assert is_plain(Raw(b"[" + USER + b"]"))
    assert is_plain(
        Raw(b'[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}, {"role": "user", "content": "B"}]')
    )
    assert not is_plain(Raw(b'[{"role":"user","content":"Hi","content":"Ho"}]'))
    assert not is_plain(Raw(b'[{"role": "user","content": "Hi","role":"user"}]'))


PLAIN = b'[{"role":"user","content":"Hi \xc3\xa9"},{"role":"assistant","content":"A"},{"role":"user","content":"B"}]'
WORD = b'"\xee\x80\x82"'


@pytest.mark.parametrize(
    ("body", "in_pieces"),
    [
        (b'{"model":"m","messages":%b,"logit_bias":{}}', True),
        (b'{"messages": %b, "model": "m"}', True),
        (b'{"messages":%b}', True),
        (b'{"messages":%b,"tools":[{"type":"function","function":{"name":"f"}}],"stop":["a"]}', True),
        (b'{"mess\\u0061ges":1,"messages":%b}', True),  # repeated: the last one counts
        (b'{"messages":%b,"mess\\u0061ges":1}', False),
        (b'{"messages":%b,"messages":' + WORD + b"}", False),
        (b'{"user":' + WORD + b',"messages":%b}', False),
        (b'{"messages":%b,"messages":null}', False),
        (b'{"messages":[],"messages":%b}', False),
        (b'{"metadata":{"messages":%b},"messages":[{"role":"user","content":"x","name":"y"}]}', False),
        (b'{"metadata":{"messages":%b}}', False),
        (b'{"a\\"messages":%b}', False),
        (b'{"user":"\\"messages\\":","messages":%b}', True),
        (b'{"messages":%b,"user":"\\"}]"}', False),
        (b'{"messages":%b,"user":"\\ud83d"}', False),  # half an emoji
        (b'{"messages":%b,"user":"\xff"}', False),
        (b'{"messages":%b,}', False),
        (b'{"messages":%b,"logit_bias":' + b"[" * 300 + b"]" * 300 + b"}", True),  # too deep, which is seen later
        (b'["messages":%b]', False),
        (b'"messages":%b', False),
        (b'{"messages":[%b]}', False),
        (b'{"messages":%b,"user":"' + b"x" * 5000 + b'"}', False),
    ],
)
@pytest.mark.parametrize("conversation", [PLAIN, PLAIN.replace(b"\xa9", b"?"), PLAIN.replace(b"user", b"tool"), b"[]", b'""'])
def test_reading_in_pieces_comes_to_the_same(
    body: bytes, in_pieces: bool, conversation: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long body with a plain conversation is read in two pieces: what comes of it, also the error, is as if read as a whole."""
    body = body.replace(b"%b", conversation)
    assert (read_plain(body) is not None) == (in_pieces and conversation is PLAIN), "the way that is tested is taken"
    monkeypatch.setattr(filtering, "LEAST_PLAIN", len(body) + 1)
    as_a_whole = outcome(body)
    monkeypatch.setattr(filtering, "LEAST_PLAIN", 0)
    assert outcome(body) == as_a_whole


def outcome(body: bytes) -> object:
    try:
        return filter_body(body)
    except MistralFilterError as error:
        return type(error), str(error), error.body()


# ---------------------------------------------------------------------------------------------------------------- the budget


def messages(item: bytes, count: int) -> bytes:
    return b'{"model":"m","messages":[' + b",".join([item] * count) + b"]}"


CALLS = b'{"role":"assistant","content":null,"tool_calls":[%s]}'
MANY = {
    "empty tool calls": lambda n: messages(CALLS % b",".join([b"{}"] * n), 1),
    "empty messages": lambda n: messages(b"{}", n),
    "lists": lambda n: messages(b"[]", n),
    "numbers": lambda n: messages(b"0", n),
    "orphan results": lambda n: messages(b'{"role":"tool","tool_call_id":"x"}', n),
    "parts": lambda n: messages(b'{"role":"user","content":[%s]}' % b",".join([b'{"type":"text"}'] * n), 1),
    "functions": lambda n: b'{"functions":[' + b",".join([b"{}"] * n) + b"]}",
    "flat tools": lambda n: b'{"tools":[' + b",".join([b'{"name":"f"}'] * n) + b"]}",
    "items": lambda n: b'{"input":[' + b",".join([b'{"type":"function_call"}'] * n) + b"]}",
    "repeated keys": lambda n: b'{"a":0' + b',"a":0' * n + b"}",
    "names": lambda n: b"{" + b",".join(b'"%d":0' % i for i in range(n)) + b"}",
}


SMALLER = 8
"""The bodies are larger than 64 KiB then, below which lists are opened without having been surveyed."""


@pytest.fixture
def budgets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """The budgets of time and of memory, divided by the parameter: it takes long to trace what is held of large bodies.

    What is held is in proportion to the body and what a part costs is the same, so a body in proportion is as good.
    """
    smaller: int = request.param
    monkeypatch.setattr(document, "BUDGET", BUDGET // smaller)
    monkeypatch.setattr(document, "ROOM", ROOM // smaller)
    return BUDGET // smaller, ROOM // smaller


def with_budgets(*names: str, shipped: str) -> Any:
    """Each of *names* with smaller budgets, and *shipped* with those that are shipped."""
    cases = [(name, 1 if name == shipped else SMALLER) for name in names]
    return pytest.mark.parametrize(("name", "budgets"), cases, indirect=["budgets"])


@with_budgets(*MANY, shipped="numbers")
def test_too_many_parts_are_refused_in_little_memory(name: str, budgets: tuple[int, int]) -> None:
    """A body of very many small parts is a 400 ``too_complex``, before memory is taken for them."""
    units, room = budgets
    body = MANY[name](units * 3 // 2)
    filter_body(b"{}")
    tracemalloc.start()
    try:
        with pytest.raises(TooComplex) as caught:
            filter_body(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (caught.value.status, caught.value.code) == (400, "too_complex")
    assert "Send fewer" in caught.value.message
    assert peak < 3 * len(body) + room


CALL = b'{"id":"%d","function":{"name":"f"}}'
DEAR = {
    "calls": lambda n: messages(CALLS % b",".join(CALL % i for i in range(n)), 1),
    "legacy calls": lambda n: messages(b'{"role":"assistant","function_call":{}}', n),
    "custom calls": lambda n: messages(CALLS % b",".join([b'{"type":"custom","custom":{}}'] * n), 1),
    "calls in turns": lambda n: messages(CALLS % b'{"id":"a"}' + b',{"role":"tool","tool_call_id":"a","name":"f!"}', n),
    "spaced messages": lambda n: messages(b'{"role" : "user","content":"" }', n),
    "parts that change": lambda n: messages(b'{"role":"user","content":[%s]}' % b",".join([b'{"type":"input_text"}'] * n), 1),
    "parts that move": lambda n: messages(b'{"role":"tool","content":[%s]}' % b",".join([b'{"type":"image_url"}'] * n), 1),
    "unknown fields": lambda n: messages(b'{"role":"user","content":"","x":0}', n),
    "escaped keys": lambda n: b"{" + b",".join(b'"\\u0061%d":0' % i for i in range(n)) + b"}",
    "results as items": lambda n: b'{"input":[' + b",".join([b'{"type":"function_call_output"}'] * n) + b"]}",
    "half emoji": lambda n: messages(b'{"role":"user","content":"' + b"\\ud83d" * n + b'"}', 1),
}


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
@with_budgets(*MANY, *DEAR, shipped="legacy calls")
def test_no_body_takes_more_memory_than_four_bodies_and_the_floor(name: str, endpoint: str, budgets: tuple[int, int]) -> None:
    """Whether it is refused or not, and though nothing is ever closed of some: what is held is counted, and so bounded."""
    make, room = {**MANY, **DEAR}[name], budgets[1]
    body = make(room // 60 * 100 // (len(make(200)) - len(make(100))))
    filter_body(b"{}")
    tracemalloc.start()
    try:
        with contextlib.suppress(TooComplex):
            filter_body(body, endpoint)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (ROOM_FOR_EACH_BYTE + 1) * len(body) + room


def test_a_small_body_of_many_parts_is_refused_for_its_memory() -> None:
    """The budget of time alone would let it pass."""
    assert filter_body(MANY["empty tool calls"](1_000)).changes
    with pytest.raises(TooComplex) as caught:
        filter_body(MANY["empty tool calls"](BUDGET // 8))
    assert caught.value.param == "messages"


def test_parts_that_are_closed_give_their_memory_back() -> None:
    """A conversation may be much longer than what could be held of it at once."""
    body = messages(b'{ "role":"user", "content":[{"type":"text","text":"Hi"}] }', 6_000)
    assert filter_body(body)[:2] == (body, ())
    root = opened(body)
    array = root.array("messages")
    assert array is not None
    with pytest.raises(TooComplex):
        [message.array("content") for message in array.objects()]


def test_what_to_send_less_of_is_named() -> None:
    """The error names the field that the parts are in."""
    with pytest.raises(TooComplex) as caught:
        filter_body(MANY["flat tools"](BUDGET // 4))
    assert caught.value.param == "tools"
    assert "fewer tools" in caught.value.message


def test_a_caller_owned_value_costs_nothing() -> None:
    """What no rule looks into may hold as many values as half a budget of commas, and is not opened."""
    body = b'{"metadata":[' + b",".join([b"[]"] * (BUDGET // 2)) + b"]}"
    assert filter_body(body, fields="current")[:2] == (body, ())


def test_long_conversations_many_tools_and_images_pass() -> None:
    """5,000 messages with tools, 128 tools of 10 KB and 20 MB of images are far from any limit."""
    turn: list[Any] = [
        {"role": "user", "content": "question, " * 20},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "", "content": "result, " * 20, "name": "f"},
        {"role": "assistant", "content": "answer, " * 20, "annotations": []},
    ]
    conversation = []
    for number in range(1250):
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        conversation += [turn[0], {**turn[1], "tool_calls": [call]}, {**turn[2], "tool_call_id": call["id"]}, turn[3]]
    body = json.dumps({"model": "m", "messages": [*conversation, turn[0]]}).encode()
    filtered = filter_body(body)
    assert len(json.loads(filtered.body)["messages"]) == 5001
    properties = {f"p{n}": {"type": "string", "description": "x" * 40, "enum": ["a", "b", "c"]} for n in range(80)}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    body = json.dumps({"model": "m", "messages": [turn[0]], "tools": [tool] * 128}).encode()
    assert filter_body(body)[:2] == (body, ())
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000_000}}
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": [image] * 4}], "user": "u"}).encode()
    assert [change.path for change in filter_body(body).changes] == ["user"]


def test_text_is_no_structure() -> None:
    """Commas, brackets and quotes in texts are not counted as parts."""
    body = messages(b'{"role":"user","content":"' + b',[{\\",' * BUDGET + b'","name":"n"}', 2)
    assert len(filter_body(body).changes) == 2


@pytest.mark.parametrize(
    ("value", "members", "values"),
    [(b"[1,2,3]", 3, 2), (b'[[1,2],"a,b",{"c":3}]', 3, 3), (b'{"a":[1,2,3],"b":"]\\",["}', 2, 3)],
)
def test_a_survey_counts_without_reading(value: bytes, members: int, values: int) -> None:
    """Members at the outer level, commas at all levels, neither in strings."""
    padded = value + b" " * 20
    found = survey(padded, 0) if members > 3 else survey(padded, 1)
    assert found is None or found.members <= members
    found = survey(padded + b" " * 2 * members, members)
    assert found is None or (found.members, found.values) == (members, values)


@pytest.mark.parametrize("body", [b"[" * 1_000_000, b'{"a":[' * 200_000, b"[]" * 1_000_000, b'["' * 9 + b"[" * 500])
def test_depth_is_seen_in_one_pass(body: bytes) -> None:
    """Depth is refused where it is reached; very many brackets without depth are no reason to look for ever."""
    try:
        check_depth(body)
    except (TooDeep, TooComplex):
        assert body != b'["' * 9 + b"[" * 500
    else:
        assert body == b'["' * 9 + b"[" * 500


# ----------------------------------------------------------------------------------------------------------- nothing is kept


@pytest.mark.parametrize(
    "body",
    [
        messages(b'{"role":"assistant","content":[{"type":"reasoning"}],"tool_calls":[{"function":{}}],"name":"n"},' + USER, 3),
        b'{"model":"m","input":[{"role":"user","content":[{"type":"input_text"}]},{"type":"function_call"}],"text":{"format":{}}}',
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"x"}}]}]}',
        MANY["empty messages"](BUDGET),
    ],
)
def test_nothing_of_a_request_outlives_it(body: bytes) -> None:
    """No cycle of parts waits for the garbage collector with the body in it, also when the body is refused."""
    filter_body(b"{}")
    gc.collect()
    gc.disable()
    try:
        try:
            filter_body(body)
        except Exception as error:  # whichever: it is the traceback that holds on to things
            error.__traceback__ = None
        assert gc.collect() == 0
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------------------------------ half an emoji


@settings(max_examples=120, derandomize=True, deadline=None, database=None)
@given(
    st.lists(
        st.sampled_from(["\\ud83d", "\\ude00", "\\uDBFF", "\\\\", "\\n", "ud83d", "\ue000", "\\ue000", "\\uE000", "m", "a0b1"]),
        max_size=8,
    )
)
def test_lone_surrogates_come_back_as_they_were(pieces: list[str]) -> None:
    """What hides halves of pairs hides those only, leaves JSON that msgspec takes, and gives every byte back."""
    body = ('{"a":"' + "".join(pieces) + '"}').encode()
    hidden = Surrogates(body)
    text = json.loads(body)["a"]
    assert hidden.found is (
        any("\ud800" <= c <= "\udfff" for c in text) or "\\ue000" in body.decode().lower().replace("\\\\", "")
    )
    json.loads(hidden.body)["a"].encode()  # no half is left
    assert hidden.restore(hidden.body) == body
