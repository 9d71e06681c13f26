"""What is known of models: which reason, and how much; which vectors they give; which options they may refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["DIMENSIONS", "EFFORTS", "MODEL_OPTIONS", "REASONING", "Reasoning"]


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
