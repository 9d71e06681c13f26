"""openai-agents, pydantic-ai and LangChain speak Responses: ``python python_clients.py``, started by ``run.py``.

They find the proxy through OPENAI_BASE_URL and OPENAI_API_KEY, and nothing else is set. One line for each check, ``ok`` or
``FAIL`` first; exit status 1 if any failed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pydantic_ai
from agents import Agent, ModelSettings, Runner, WebSearchTool, function_tool, set_default_openai_client, set_tracing_disabled
from langchain.agents import create_agent
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel

MODEL = "mistral-small-latest"
SAID = "This is the mistral-filter sandbox: no model was asked."
CAME = f"{SAID} The result of the tool has arrived."
ASKING = 'Call weather {"city": "Paris"}'
failed = 0


class City(BaseModel):
    city: str


def check(name: str, expected: object, run: Callable[[], Any]) -> None:
    global failed
    try:
        got = run()
    except Exception as exc:
        got = exc
    right = got == expected
    failed += not right
    print("ok  " if right else "FAIL", name, "" if right else repr(got)[:600])


# -------------------------------------------------------------------------------------------------------- openai-agents

set_tracing_disabled(True)


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"9 degrees in {city}"


def agent(**options: Any) -> Agent[Any]:
    return Agent(name="assistant", instructions="Be brief.", model=MODEL, **options)


def answer(asked: Any, **options: Any) -> Any:
    return Runner.run_sync(agent(**options), asked).final_output


async def streamed() -> tuple[bool, Any]:
    set_default_openai_client(AsyncOpenAI())  # a client belongs to the event loop of its first use
    result = Runner.run_streamed(agent(tools=[weather]), ASKING)
    kinds = [event.data.type async for event in result.stream_events() if event.type == "raw_response_event"]
    return kinds.count("response.output_text.delta") > 3, result.final_output


def second_turn() -> Any:
    history = Runner.run_sync(agent(tools=[weather]), ASKING).to_input_list()
    return answer([*history, {"role": "user", "content": "And now?"}], tools=[weather])


def handoff() -> Any:
    result = Runner.run_sync(agent(handoffs=[Agent(name="French agent", model=MODEL)]), "call transfer_to_french_agent")
    return result.last_agent.name


thinking = ModelSettings(reasoning=Reasoning(effort="high", summary="auto"), store=True, truncation="auto")
print("openai-agents", version("openai-agents"))
check("plain", SAID, lambda: answer("Hi"))
check("a tool turn", CAME, lambda: answer(ASKING, tools=[weather]))
check("a second turn", SAID, second_turn)
check("reasoning with a tool turn", CAME, lambda: answer(ASKING, tools=[weather], model_settings=thinking))
check("an output type", City(city="sandbox"), lambda: answer("Paris", output_type=City))
check("a forced tool", CAME, lambda: answer("Hi", tools=[weather], model_settings=ModelSettings(tool_choice="required")))
check("a hosted tool, which goes", SAID, lambda: answer("Hi", tools=[WebSearchTool()]))
check("a handoff", "French agent", handoff)
check("a streamed tool turn", (True, CAME), lambda: asyncio.run(streamed()))

# ----------------------------------------------------------------------------------------------------------- pydantic-ai


def pydantic(**options: Any) -> pydantic_ai.Agent[Any, Any]:
    made = pydantic_ai.Agent(f"openai:{MODEL}", instructions="Be brief.", **options)

    @made.tool_plain(name="weather")
    def look_outside(city: str) -> str:
        return f"9 degrees in {city}"

    return made


def two_turns(**options: Any) -> tuple[Any, Any]:
    first = pydantic(**options).run_sync(ASKING)
    return first.output, pydantic(**options).run_sync("And now?", message_history=first.all_messages()).output


async def pieces() -> tuple[bool, str]:
    async with pydantic().run_stream(ASKING) as result:
        found = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    return len(found) > 3, "".join(found)


settings = {"openai_reasoning_effort": "high", "openai_reasoning_summary": "detailed", "openai_truncation": "auto"}
native = pydantic_ai.NativeOutput(City)
print("pydantic-ai", version("pydantic-ai-slim"))
check("two turns with a tool", (CAME, SAID), two_turns)
check("a streamed tool turn", (True, CAME), lambda: asyncio.run(pieces()))
check("reasoning with a tool turn", (CAME, SAID), lambda: two_turns(model_settings=settings))
check("a native output type", City(city="sandbox"), lambda: pydantic(output_type=native).run_sync("Paris").output)

# ------------------------------------------------------------------------------------------------------------- LangChain


@tool("weather")
def tool_of_langchain(city: str) -> str:
    """The weather in a city."""
    return f"9 degrees in {city}"


def chat(**options: Any) -> ChatOpenAI:
    reasoning = {"effort": "high", "summary": "auto"}
    return ChatOpenAI(model=MODEL, max_retries=0, reasoning=reasoning, **options)


def turns(**options: Any) -> tuple[str, str]:
    model, messages = chat(**options).bind_tools([tool_of_langchain]), list[BaseMessage]([HumanMessage(ASKING)])
    messages.append(called := model.invoke(messages))
    messages.append(tool_of_langchain.invoke(called.tool_calls[0]))
    messages.append(said := model.invoke(messages))
    return said.text, model.invoke([*messages, HumanMessage("And now?")]).text


def graph() -> str:
    return create_agent(chat(), [tool_of_langchain]).invoke({"messages": [("user", ASKING)]})["messages"][-1].text


print("langchain-openai", version("langchain-openai"))
for form in (None, "responses/v1", "v0"):
    check(f"two turns with a tool, output_version={form}", (CAME, SAID), lambda form=form: turns(output_version=form))
check("a stream", SAID, lambda: "".join(piece.text for piece in chat().stream("Hi")))
check("an agent", CAME, graph)
structured = chat().with_structured_output(City, method="json_schema")
check("a structured output", City(city="sandbox"), lambda: structured.invoke("Paris"))
sys.exit(bool(failed))
