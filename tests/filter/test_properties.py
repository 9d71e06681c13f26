"""What holds for every body, not for examples: hypothesis makes the bodies."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from mistral_filter import Change, Filtered, MistralFilterError, filter_body
from mistral_filter.changes import as_header

Json = Any

ENDPOINTS = (
    "chat agents fim embeddings moderations classifications chat/moderations chat/classifications ocr "
    "responses responses/input_tokens"
).split()

QUICK = settings(
    deadline=None, derandomize=True, max_examples=70, suppress_health_check=list(HealthCheck), database=None, print_blob=False
)


def lines(**weighted: int) -> settings:
    return settings(QUICK, **weighted)


# -------------------------------------------------------------------------------------------------------------- strategies

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.sampled_from(
        ["", "user", "auto", "required", "null", "text", "function", "abcDEF123", "data:application/pdf;base64,AA=="]
    ),
)
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8
)
NAMES = (
    "model messages temperature top_p max_tokens min_tokens stream stop random_seed response_format tools "
    "tool_choice safe_prompt n metadata prediction parallel_tool_calls reasoning_effort service_tier "
    "presence_penalty prompt suffix input document pages output_dimension encoding_format agent_id "
    "max_completion_tokens max_output_tokens seed dimensions functions function_call user store stream_options "
    "logit_bias instructions previous_response_id conversation reasoning text include truncation verbosity"
).split()
CALL_IDS = st.sampled_from(["call_1", "call_2", "abcDEF123", "abcDEF124", "", "null", "toolu_01", "é", "a" * 40]) | st.text(
    max_size=10
)


def near(**fields: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    """An object that often has these keys, sometimes with an odd value, sometimes with a foreign key."""
    likely = {name: st.one_of(value, value, value, ANY) for name, value in fields.items()}
    strange = st.dictionaries(st.sampled_from([*fields, "name", "id", "cache_control", "x", "role", "type"]), ANY, max_size=1)
    return st.tuples(st.fixed_dictionaries({}, optional=likely), strange).map(lambda pair: {**pair[1], **pair[0]})


TEXT = st.sampled_from(["Hi", "", " "]) | st.text(max_size=4)
PARTS = st.one_of(
    near(type=st.just("text"), text=TEXT),
    near(type=st.sampled_from(["input_text", "output_text", "refusal", "summary_text"]), text=TEXT, refusal=TEXT),
    near(type=st.just("image_url"), image_url=near(url=TEXT, detail=st.sampled_from(["low", "original"])) | TEXT),
    near(type=st.just("input_image"), image_url=TEXT, detail=st.just("low"), file_id=TEXT),
    near(type=st.just("file"), file=near(file_data=TEXT, file_id=TEXT, filename=TEXT), file_id=TEXT),
    near(type=st.just("input_file"), file_data=TEXT, file_url=TEXT, file_id=TEXT),
    near(type=st.just("input_audio"), input_audio=near(data=TEXT, format=st.just("wav"))),
    near(type=st.just("thinking"), thinking=st.lists(near(type=st.just("text"), text=TEXT), max_size=2)),
    near(type=st.sampled_from(["reference", "resource", "video_url", "document_url"]), reference_ids=ANY, document_url=TEXT),
    SCALARS,
)
CONTENT = st.one_of(TEXT, TEXT, st.none(), st.lists(PARTS, max_size=3))
CALLS = st.lists(
    near(
        id=CALL_IDS,
        type=st.sampled_from(["function", "custom"]),
        function=near(name=TEXT, arguments=st.sampled_from(["{}", ""]) | ANY),
        custom=near(name=TEXT, input=TEXT),
    ),
    max_size=3,
)
MESSAGE = st.one_of(
    near(role=st.just("user"), content=CONTENT, name=TEXT),
    near(role=st.sampled_from(["system", "developer"]), content=CONTENT),
    near(
        role=st.just("assistant"),
        content=CONTENT,
        tool_calls=CALLS,
        function_call=near(name=TEXT, arguments=TEXT),
        refusal=TEXT,
        reasoning_content=TEXT,
        reasoning=TEXT,
        prefix=st.booleans(),
    ),
    near(role=st.sampled_from(["tool", "function"]), content=CONTENT, tool_call_id=CALL_IDS, name=TEXT),
    ANY,
)
MESSAGES = st.lists(MESSAGE, max_size=6)
TOOLS = st.lists(
    near(
        type=st.sampled_from(["function", "custom", "web_search", "zzz"]),
        function=near(name=TEXT, parameters=near(type=st.just("object"), **{"$schema": TEXT, "$id": TEXT}), strict=st.none()),
        name=TEXT,
        parameters=ANY,
    ),
    max_size=3,
)
ITEMS = st.lists(
    MESSAGE
    | near(
        type=st.sampled_from(
            [
                "message",
                "function_call",
                "function_call_output",
                "custom_tool_call",
                "custom_tool_call_output",
                "reasoning",
                "zzz",
            ]
        ),
        call_id=CALL_IDS,
        name=TEXT,
        arguments=TEXT,
        output=CONTENT,
        input=TEXT,
        role=st.just("user"),
        content=CONTENT,
    ),
    max_size=5,
)
NUMBERS = st.none() | st.integers(-2, 3) | st.floats(-3, 3)
BODY = near(
    model=st.sampled_from(["m", "magistral-small", "mistral-small-latest", "zai-glm-5-3", "codestral-2508"]),
    messages=MESSAGES,
    temperature=NUMBERS,
    top_p=NUMBERS,
    max_tokens=NUMBERS,
    max_completion_tokens=NUMBERS,
    seed=NUMBERS,
    n=NUMBERS,
    stop=st.lists(TEXT, max_size=1),
    tools=TOOLS,
    tool_choice=st.sampled_from(["auto", "required"])
    | near(
        type=st.sampled_from(["function", "allowed_tools", "auto", "zzz"]),
        name=TEXT,
        mode=TEXT,
        tools=TOOLS,
        function=near(name=TEXT),
    ),
    functions=st.lists(near(name=TEXT, parameters=ANY), max_size=2),
    function_call=TEXT | near(name=TEXT),
    response_format=near(type=TEXT, json_schema=near(name=TEXT, schema=ANY)),
    prediction=near(type=TEXT, content=CONTENT),
    service_tier=st.sampled_from(["flex", "default"]),
    reasoning_effort=st.sampled_from(["max", "low"]),
)
RESPONSES = near(
    model=TEXT,
    input=TEXT | ITEMS,
    instructions=TEXT | st.none(),
    text=near(format=near(type=st.sampled_from(["text", "json_schema"]), name=TEXT, schema=ANY), verbosity=TEXT),
    reasoning=near(effort=TEXT, summary=TEXT),
    max_output_tokens=NUMBERS,
    tools=TOOLS,
    previous_response_id=st.none(),
    conversation=st.none(),
)
OTHERS = st.dictionaries(
    st.sampled_from(NAMES) | st.text(max_size=5), ANY | MESSAGES | st.lists(MESSAGES, max_size=2), max_size=5
)
BODIES = st.one_of(BODY, BODY, RESPONSES, OTHERS)


@st.composite
def as_json(draw: st.DrawFn, values: st.SearchStrategy[Json]) -> bytes:
    """A value as JSON, spaced and escaped in one of the ways in which clients write it; lone surrogates are always escaped."""
    value = draw(values)
    ascii_only = draw(st.booleans())
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : ")]))
    return json.dumps(value, ensure_ascii=ascii_only or lone(value), separators=separators).encode()


def lone(value: Json) -> bool:
    return re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)) is not None


SURROGATE_TEXT = st.text(st.sampled_from('a\ud83d\ude00\udc00\ue000\ue001é\\"\x1b'), max_size=4)
SWITCHES = st.fixed_dictionaries(
    {},
    optional={
        "fields": st.sampled_from(["classic", "current"]),
        "translate": st.booleans(),
        "bridge": st.booleans(),
        "strict": st.booleans(),
        "allow": st.lists(st.sampled_from(["n", "zzz", "input", "user"]), max_size=2),
        "drop": st.lists(st.sampled_from(["stop", "messages", "max_tokens"]), max_size=1),
    },
)


def parsed(body: bytes) -> Json:
    """What a strict parser, which is not ours, reads."""
    return json.loads(body.decode("utf-8"), parse_constant=refuse_constant)


def refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")


# ---------------------------------------------------------------------------------------- JSON out, or an error of ours


def outcome_of(body: bytes, endpoint: str, options: dict[str, Any]) -> Filtered | MistralFilterError:
    try:
        return filter_body(body, endpoint, **options)
    except MistralFilterError as error:
        return error


def check(body: bytes, endpoint: str, options: dict[str, Any]) -> None:
    outcome = outcome_of(body, endpoint, options)
    if isinstance(outcome, MistralFilterError):
        assert outcome.status == 400
        assert json.loads(outcome.body())["error"]["message"] == outcome.message
        return
    out, changes, _ = outcome
    assert isinstance(parsed(out), dict)
    assert all(change.action in ("drop", "rename", "set", "move", "insert") for change in changes)
    assert all(change.loss in ("none", "approximate", "lost") for change in changes)
    assert all(change.reason for change in changes)


@lines(max_examples=80)
@given(as_json(BODIES), st.sampled_from(ENDPOINTS + ["chat"] * 4), SWITCHES)
def test_any_body_gives_json_or_an_error_of_ours(body: bytes, endpoint: str, options: dict[str, Any]) -> None:
    """Whatever odd shapes a near-real body has, what comes out is a JSON object or a 400, never another exception."""
    check(body, endpoint, options)


@QUICK
@given(as_json(st.dictionaries(st.sampled_from(NAMES), ANY, max_size=6) | ANY), st.sampled_from(ENDPOINTS), SWITCHES)
def test_any_json_gives_json_or_an_error_of_ours(body: bytes, endpoint: str, options: dict[str, Any]) -> None:
    """Any JSON at all, of any kind under any name, gives a JSON object or a 400."""
    check(body, endpoint, options)


@QUICK
@given(
    st.binary(max_size=40)
    | st.text('{}[]",:0e-.\\u \ud83d1atrue\x00', max_size=25).map(lambda text: text.encode("utf-8", "replace")),
    SWITCHES,
)
@example(b'{"":' + b"9" * 4301 + b"}", {})
@example(b'{"temperature":1e999}', {})
def test_any_bytes_give_json_or_an_error_of_ours(body: bytes, options: dict[str, Any]) -> None:
    """Bytes that are no JSON, or barely, are refused exactly when the standard library's parser refuses them too."""
    try:
        body.decode("utf-8")
        good = isinstance(parsed(body.removeprefix(b"\xef\xbb\xbf")), dict)
    except ValueError as error:
        good = "limit (4300" in str(error)  # the parser's own limit, not JSON's
    if good:
        check(body, "chat", options)
    else:
        with pytest.raises(MistralFilterError):
            filter_body(body, "chat", **options)


@lines(max_examples=70)
@given(
    st.recursive(
        SURROGATE_TEXT, lambda t: st.lists(t, max_size=2) | st.dictionaries(SURROGATE_TEXT, t, max_size=2), max_leaves=5
    ),
    BODY,
    SWITCHES,
)
def test_half_an_emoji_never_changes_what_else_happens(odd: Json, body: dict[str, Any], options: dict[str, Any]) -> None:
    """A body with lone surrogates in values and keys gives what the standard library reads in it, minus what is reported."""
    given_body = json.dumps({**body, "metadata": odd, "model": odd}).encode()
    options = {**options, "fields": "current", "strict": False}
    outcome = outcome_of(given_body, "chat", options)
    if isinstance(outcome, MistralFilterError):
        assert outcome.code not in ("invalid_json", "json_too_deep")
        return
    before, after = json.loads(given_body), json.loads(outcome.body)
    assert after["metadata"] == before["metadata"]
    assert after["model"] == before["model"]


# ------------------------------------------------------------------------------------------------------------- idempotence


@lines(max_examples=80)
@given(as_json(BODIES), st.sampled_from(ENDPOINTS + ["chat"] * 4), SWITCHES)
def test_a_filtered_body_is_not_changed_again(body: bytes, endpoint: str, options: dict[str, Any]) -> None:
    """Filtering what was filtered gives the same bytes and no changes."""
    try:
        once = filter_body(body, endpoint, **options).body
    except MistralFilterError:
        return
    assert filter_body(once, endpoint, **options)[:2] == (once, ())


# --------------------------------------------------------------------------------------------------------- kept + reported


def is_named(changes: tuple[Change, ...], path: str) -> bool:
    """Whether a change names the path, a place below it, or what it is a part of."""
    named = [name for change in changes for name in (change.path, change.to) if name is not None]
    return any(
        path == name or path.startswith((f"{name}.", f"{name}[")) or name.startswith((f"{path}.", f"{path}[")) for name in named
    )


@lines(max_examples=80)
@given(as_json(st.one_of(BODIES, RESPONSES)), st.sampled_from(ENDPOINTS + ["chat"] * 4), SWITCHES)
def test_kept_and_reported_is_given(body: bytes, endpoint: str, options: dict[str, Any]) -> None:
    """Every key of the top level is in the output with its value, or a change names it."""
    try:
        out, changes, _ = filter_body(body, endpoint, **options)
    except MistralFilterError:
        return
    before, after = json.loads(body), json.loads(out)
    for name, value in before.items():
        assert (name in after and after[name] == value) or is_named(changes, name), name


@lines(max_examples=80)
@given(as_json(st.fixed_dictionaries({"model": st.just("m"), "messages": MESSAGES})), SWITCHES)
def test_kept_and_reported_is_given_in_messages(body: bytes, options: dict[str, Any]) -> None:
    """Every key of every message is in the output with its value, or a change names it by the place it came from."""
    assume("messages" not in options.get("drop", ()))
    try:
        out, changes, _ = filter_body(body, "chat", **options)
    except MistralFilterError:
        return
    after = json.loads(out)["messages"]
    for index, message in enumerate(json.loads(body)["messages"]):
        path = f"messages[{index}]"
        if message in after or any(change.path == path and change.action == "drop" for change in changes):
            continue
        assert isinstance(message, dict), "a message that is no object is left alone"
        for name, value in message.items():
            kept = any(isinstance(one, dict) and name in one and one[name] == value for one in after)
            assert kept or is_named(changes, f"{path}.{name}"), f"{path}.{name}"


@QUICK
@given(as_json(st.fixed_dictionaries({"model": st.just("m"), "messages": MESSAGES})), SWITCHES)
def test_no_message_is_lost_unreported(body: bytes, options: dict[str, Any]) -> None:
    """There are as many messages as came, less those reported as dropped, plus those reported as inserted."""
    assume("messages" not in options.get("drop", ()))
    try:
        out, changes, _ = filter_body(body, "chat", **options)
    except MistralFilterError:
        return
    whole = re.compile(r"messages\[\d+\]")
    count = {
        action: sum(change.action == action and whole.fullmatch(change.path) is not None for change in changes)
        for action in ("drop", "insert")
    }
    assert len(json.loads(out)["messages"]) == len(json.loads(body)["messages"]) - count["drop"] + count["insert"]


# ----------------------------------------------------------------------------------------------------------------- tool ids


@st.composite
def turns(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """A conversation turn by turn: each a user's message, calls and all their results (in any order), and an answer."""
    conversation: list[list[dict[str, Any]]] = []
    for _ in range(draw(st.integers(1, 4))):
        ids = draw(st.lists(CALL_IDS.filter(lambda id: id not in ("", "null")), max_size=3, unique=True))
        turn: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
        if ids:
            calls = [{"id": id, "type": "function", "function": {"name": f"f{n}", "arguments": "{}"}} for n, id in enumerate(ids)]
            turn.append({"role": "assistant", "content": None, "tool_calls": calls})
            turn += [{"role": "tool", "tool_call_id": id, "content": f"of {id}"} for id in draw(st.permutations(ids))]
        turn.append({"role": "assistant", "content": "A"})
        conversation.append(turn)
    return conversation


def raw_messages(out: bytes) -> list[bytes]:
    """The bytes of each message in a compact body."""
    text = out.decode()
    start = text.index('"messages":[') + len('"messages":[')
    decoder, found = json.JSONDecoder(), []
    while text[start] != "]":
        _, end = decoder.raw_decode(text, start)
        found.append(text[start:end].encode())
        start = end + (text[end] == ",")
    return found


@QUICK
@given(turns())
@example(
    [
        [
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "\ud83d", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "\ud83d", "content": "r"},
        ],
        [{"role": "user", "content": "\ue000"}],
    ]
)
def test_the_past_of_a_growing_conversation_keeps_its_bytes(conversation: list[list[dict[str, Any]]]) -> None:
    """From turn to turn the messages that were there before are the same bytes, so a prompt cache keeps its hits."""
    sent: list[dict[str, Any]] = []
    before: list[bytes] = []
    for turn in conversation:
        for message in turn:
            sent.append(message)
            if message["role"] == "assistant" or (message["role"] == "tool" and message is not turn[-1]):
                continue
            body = json.dumps({"model": "m", "messages": sent}, separators=(",", ":")).encode()
            now = raw_messages(filter_body(body, "chat").body)
            assert now[: len(before)] == before
            before = now


@QUICK
@given(turns())
def test_ids_fit_pair_and_do_not_collide(conversation: list[list[dict[str, Any]]]) -> None:
    """Every id has nine letters or digits, two ids that differed differ, one id is one id, and each result answers its call."""
    messages = [message for turn in conversation for message in turn] + [{"role": "user", "content": "Bye"}]
    after = json.loads(filter_body(json.dumps({"model": "m", "messages": messages}).encode(), "chat").body)["messages"]
    became: dict[str, str] = {}
    for old, new in zip(messages, after, strict=True):
        couples = [(a["id"], b["id"]) for a, b in zip(old.get("tool_calls", ()), new.get("tool_calls", ()), strict=True)]
        if old["role"] == "tool":
            couples.append((old["tool_call_id"], new["tool_call_id"]))
        for a, b in couples:
            assert re.fullmatch("[a-zA-Z0-9]{9}", b)
            assert became.setdefault(a, b) == b
            if re.fullmatch("[a-zA-Z0-9]{9}", a):
                assert a == b
    assert len(set(became.values())) == len(became)


# --------------------------------------------------------------------------------------------------------------- the header

_BARE = re.compile(r"[a-z*][a-z0-9_.*-]*")
_ITEM = re.compile(
    r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"|(-?\d{1,15}(?![\d.]))|([A-Za-z*][A-Za-z0-9!#$%&\'*+.^_`|~:/-]*)'
)


def structured_list(text: str) -> list[tuple[str, dict[str, str]]]:
    """A list of tokens with parameters, read after RFC 9651 section 4.2; ValueError for what is none."""
    members: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(text):
        token = _ITEM.match(text, at)
        if token is None or token[3] is None:
            raise ValueError(f"no token at {at}: {text!r}")
        at = token.end()
        parameters: dict[str, str] = {}
        while text[at : at + 1] == ";":
            key = _BARE.match(text, at + 1)
            if key is None or text[key.end() : key.end() + 1] != "=":
                raise ValueError(f"no parameter at {at}: {text!r}")
            value = _ITEM.match(text, key.end() + 1)
            if value is None:
                raise ValueError(f"no value at {key.end()}: {text!r}")
            parameters[key[0]] = re.sub(r"\\(.)", r"\1", value[1]) if value[1] is not None else value[0]
            at = value.end()
        members.append((token[3], parameters))
        if at < len(text):
            comma = re.compile(r"[ \t]*,[ \t]*(?=[^ \t])").match(text, at)
            if comma is None:
                raise ValueError(f"no comma at {at}: {text!r}")
            at = comma.end()
    return members


@pytest.mark.parametrize(
    "text", ['drop;path="a', "drop;path=é", "drop;path=", "drop,", "drop;;a=1", 'drop;path="a\\b"', "1drop", "a b"]
)
def test_the_parser_of_the_header_can_refuse(text: str) -> None:
    """The judge of the header below is not one that takes everything."""
    with pytest.raises(ValueError, match="no "):
        structured_list(text)


NAMES_OF_ANY_KIND = (
    st.text(max_size=12) | st.text('a"\\\r\n\t\x00\x7f%,;=é\u202e\ud83d', max_size=8) | st.text("a", min_size=500, max_size=1100)
)
CHANGES = st.lists(
    st.builds(
        Change,
        st.sampled_from(["drop", "rename", "set", "move", "insert"]),
        NAMES_OF_ANY_KIND,
        st.just("a reason"),
        st.sampled_from(["none", "approximate", "lost"]),
        st.none() | NAMES_OF_ANY_KIND,
    ),
    max_size=40,
)


def check_header(changes: tuple[Change, ...] | list[Change]) -> None:
    header = as_header(changes)
    assert header.isascii()
    assert header.isprintable() or not header
    assert len(header) <= 1024
    assert header == header.strip()
    counted = 0
    members = structured_list(header)
    for word, parameters in members:
        if word == "more":
            continue
        counted += int(parameters.get("count", "1"))
        assert word in {change.action for change in changes}
        assert {"path", "loss"} <= parameters.keys() <= {"path", "loss", "to", "count"}
    assert counted <= len(changes)
    if not any(word == "more" for word, _ in members):
        assert counted == len(changes)
    else:
        assert members[-1][0] == "more"
        assert int(members[-1][1]["count"]) > 0


@QUICK
@given(CHANGES)
def test_the_header_is_a_safe_structured_field(changes: list[Change]) -> None:
    """Any changes read as printable ASCII of at most 1024 bytes that parse as a structured-field list and count every change."""
    check_header(changes)


@QUICK
@given(as_json(st.dictionaries(st.text(max_size=10), st.integers(), min_size=1, max_size=30)))
def test_the_header_of_a_filtered_body_is_safe(body: bytes) -> None:
    """The same for the changes of a body whose keys are anything at all."""
    check_header(filter_body(body, "chat").changes)


def test_the_header_reads_as_documented() -> None:
    """Places that differ in an index only are counted together; names stay readable."""
    _, changes, _ = filter_body(
        b'{"model":"m","seed":1,"user":"u","messages":[{"role":"user","content":"a","name":"n"},{"role":"user","content":"b","name":"n"}]}'
    )
    assert sorted(structured_list(as_header(changes)), key=str) == [
        ("drop", {"path": "messages[*].name", "loss": "lost", "count": "2"}),
        ("drop", {"path": "user", "loss": "none"}),
        ("rename", {"path": "seed", "to": "random_seed", "loss": "none"}),
    ]
