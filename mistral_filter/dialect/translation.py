"""The rules for one request: which of them apply at its endpoint, and in which order.

What is above the messages comes first, because it tells whether they may hold earlier reasoning and what tools are called.
"""

from __future__ import annotations

from collections.abc import Collection

from mistral_filter.dialect import effort, request, tools
from mistral_filter.dialect.messages import Conversation, request_for_more
from mistral_filter.dialect.response_items import response_items
from mistral_filter.dialect.response_request import response_request
from mistral_filter.dialect.responses import responses_body
from mistral_filter.dialect.thoughts import reads_reasoning
from mistral_filter.fields import RESPONSES
from mistral_filter.judge import Judge
from mistral_filter.parts import Array, Object
from mistral_filter.toolnames import ToolNames

__all__ = ["Translation"]

_CHAT = ("chat", "agents")


class Translation:
    """Translates one request: ``top`` all that is above its messages, then ``conversation`` the messages.

    *accepted* are the names at the top of the body that will stay. *bridge*: put an assistant message between a tool's and a
    user's. *names* replaces the names of tools that Mistral refuses.
    """

    __slots__ = ("_accepted", "_body", "_bridge", "_endpoint", "_names", "_reasons")

    def __init__(self, body: Object, endpoint: str, accepted: Collection[str], names: ToolNames, *, bridge: bool) -> None:
        self._body, self._endpoint, self._accepted, self._bridge = body, endpoint, accepted, bridge
        self._names = names
        self._reasons = False
        """Whether the request asks the model to reason."""

    def top(self) -> None:
        """All rules above the messages. Raises Refused for what has no translation."""
        body = self._body
        if self._endpoint in _CHAT:
            self._chat()
        elif self._endpoint in RESPONSES:
            self._responses()
        elif self._endpoint == "embeddings":
            request.embedding_input(body)
            request.embedding_dimension(body)
        elif self._endpoint in ("chat/moderations", "chat/classifications"):
            request.moderated_messages(body, nested=self._endpoint == "chat/classifications")
        request.rename_fields(body, self._accepted)
        request.stop(body)
        if "temperature" in self._accepted and "top_p" in self._accepted:
            effort.greedy_sampling(body, reasons=self._reasons)

    def conversation(self, messages: Array, judge: Judge) -> None:
        """The *messages*, or items of a Responses request, each judged by *judge* when it has been translated."""
        if self._endpoint in RESPONSES:
            response_items(messages, judge, reads_reasoning=self._reads_reasoning(), names=self._names)
            return
        ordered = self._endpoint in _CHAT
        more = request_for_more(self._body, self._accepted) if ordered else None
        translate = Conversation(
            ordered=ordered, reads_reasoning=self._reads_reasoning(), bridge=self._bridge, names=self._names, more=more
        )
        translate(messages, judge)

    def _chat(self) -> None:
        body, accepted = self._body, self._accepted
        effort.rename_effort(body)
        if "reasoning_effort" in accepted or ("reasoning_effort" in body.fields and effort.takes_none(self._model())):
            self._effort(body, "reasoning_effort")
        self._reasons = self._reasons or ("prompt_mode" in accepted and body.text("prompt_mode") == "reasoning")
        if "functions" in body.fields or "function_call" in body.fields:
            tools.legacy_functions(body)
        names: tools.NamesInSpaces = {}
        if "tools" in accepted and ("tools" in body.fields or "tool_choice" in body.fields):
            names = tools.tools(body)
            tools.tool_choice(body)
            self._names.tools(body)
        if "input" in body.fields:
            responses_body(body, reads_reasoning=self._reads_reasoning(), names=names)
        if "prediction" in accepted:
            request.prediction(body)
        request.response_format(body)

    def _responses(self) -> None:
        body, accepted = self._body, self._accepted
        response_request(body, self._endpoint, accepted)
        if "tools" in accepted:
            self._names.tools(body)
        reasoning = body.object("reasoning") if "reasoning" in accepted else None
        if reasoning is not None:
            self._effort(reasoning, "effort")

    def _reads_reasoning(self) -> bool:
        """Whether the messages may hold earlier reasoning."""
        return reads_reasoning(self._model(), asked=self._reasons)

    def _effort(self, holder: Object, name: str) -> None:
        self._reasons = name in holder.fields and effort.settle_effort(holder, name, self._model())

    def _model(self) -> str | None:
        return self._body.text("model") if "model" in self._accepted else None
