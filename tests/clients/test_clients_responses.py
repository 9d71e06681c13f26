"""Real Python clients that speak Responses, unconfigured but for address and key, through gunicorn to the stand-in.

``tests/clients/run.py`` does the same by hand with clients that are too large to be installed for every run.
"""

from __future__ import annotations

from typing import Any

import openai
import pydantic
import pytest
from openai import OpenAI
from servers import Gunicorn
from test_clients import (  # the fixtures are found by their names
    ASKING,
    MODEL,
    SAID,
    TOOLS,
    _nothing_of_the_developers,
    client,
    fields,
    langchain,
    proxy,
)

from mistral_filter.sandbox import RESULT_CAME

__all__ = ["_nothing_of_the_developers", "client", "fields", "proxy"]

FLAT: list[Any] = [{"type": "function", **TOOLS[0]["function"], "strict": True}]


class City(pydantic.BaseModel):
    city: str


def weather(city: str) -> str:
    """The weather in a city."""
    return f"9 degrees in {city}"


def test_openai_gets_an_answer(client: OpenAI) -> None:
    """``responses.create`` with what OpenAI has and Mistral refuses: the answer comes, and the rest is reported."""
    raw = client.responses.with_raw_response.create(
        model=MODEL,
        input=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        store=True,
        truncation="auto",
        user="someone",
        include=["reasoning.encrypted_content"],
        reasoning={"effort": "high", "summary": "auto"},
    )
    answer = raw.parse()
    assert (answer.output_text, answer.status) == (SAID, "completed")
    assert answer.output[0].type == "reasoning"
    for path in ("store", "truncation", "user", "include", "reasoning.summary"):
        assert f'path="{path}"' in raw.headers["mistral-filter-changes"]


def test_openai_streams(client: OpenAI) -> None:
    """The events come in pieces, from the first to the completed answer."""
    with client.responses.stream(model=MODEL, input="Hi") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == SAID
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert kinds.count("response.output_text.delta") > 3


def test_openai_goes_through_a_tool_turn(client: OpenAI) -> None:
    """A call, its result and the next question, with every item of an answer fed back as the SDK dumps it."""
    history: list[Any] = [ASKING]
    first = client.responses.create(model=MODEL, input=history, tools=FLAT)
    [call] = first.output
    assert isinstance(call, openai.types.responses.ResponseFunctionToolCall)
    assert (call.name, call.arguments) == ("weather", '{"city":"Paris"}')
    history += [item.model_dump() for item in first.output]
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "9 degrees"})
    second = client.responses.create(model=MODEL, input=history, tools=FLAT)
    assert second.output_text == RESULT_CAME
    history += [*(item.model_dump() for item in second.output), {"role": "user", "content": "And now?"}]
    assert client.responses.create(model=MODEL, input=history, tools=FLAT).output_text == SAID


def test_openai_parses(client: OpenAI) -> None:
    """A structured answer is parsed into its model."""
    assert client.responses.parse(model=MODEL, input="Paris", text_format=City).output_parsed == City(city="sandbox")


def test_openai_is_told_to_send_the_whole_input(client: OpenAI) -> None:
    """A request that builds on a stored answer gets a 400 that says what to send instead."""
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(model=MODEL, input="Hi", previous_response_id="resp_1")


@pytest.mark.parametrize(("key", "error"), [("wrong", openai.AuthenticationError), ("limit", openai.RateLimitError)])
def test_openai_raises_its_own_errors(proxy: Gunicorn, key: str, error: type[Exception]) -> None:
    """The stand-in's keys for trouble arrive as the exceptions that the SDK has for it."""
    with OpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0) as troubled, pytest.raises(error):
        troubled.responses.create(model=MODEL, input="Hi")


def test_openai_sees_a_stream_break(proxy: Gunicorn) -> None:
    """A stream that breaks off does not pass for a whole one."""
    with OpenAI(base_url=f"{proxy.url}/v1", api_key="broken", max_retries=0) as troubled:
        kinds = []
        with pytest.raises((openai.APIError, openai.APIConnectionError)):  # noqa: PT012 - it may break at any event
            for event in troubled.responses.create(model=MODEL, input="Hi", stream=True):
                kinds.append(event.type)
    assert "response.completed" not in kinds


@pytest.mark.parametrize("version", [None, "responses/v1"])
def test_langchain_reasons_with_tools(proxy: Gunicorn, version: str | None) -> None:
    """``reasoning=`` makes LangChain speak Responses: a call, its result, the next question, and a stream."""
    from langchain_core.messages import HumanMessage
    from langchain_core.tools import tool

    options: Any = {"reasoning": {"effort": "high", "summary": "auto"}, "output_version": version}
    with langchain(proxy, **options) as model:
        bound = model.bind_tools([weather])
        messages: list[Any] = [HumanMessage(ASKING["content"])]
        first = bound.invoke(messages)
        [call] = first.tool_calls
        messages += [first, tool(weather).invoke(call)]
        second = bound.invoke(messages)
        messages += [second, HumanMessage("And now?")]
        assert (second.text, bound.invoke(messages).text) == (RESULT_CAME, SAID)
        assert "".join(piece.text for piece in model.stream("Hi")) == SAID
