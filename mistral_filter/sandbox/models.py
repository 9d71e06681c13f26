"""Which models the stand-in knows, and what each of them takes.

Names and abilities: a list of models recorded on 2026-08-15. Reasoning efforts: measured by others, 2026-06 to 2026-09
(withceleste/celeste-python#311, anomalyco/models.dev#1986, mistralai/mistral-vibe#1117). mistral-embed takes no dimension:
plastic-labs/honcho#772 (2026-06). The stand-in states this by itself, apart from the tables of the filter: a judge that read
those could not find a mistake in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["MODELS", "Model", "card", "known"]


class Model(NamedTuple):
    """What a model can do and which values it takes."""

    abilities: str = "completion_chat function_calling"
    """Keys of ``capabilities`` in Mistral's list of models."""
    efforts: tuple[str, ...] = ()
    """The values of ``reasoning_effort``; empty where the field is refused."""
    dimensions: int = 0
    """The length of an embedding."""
    most_dimensions: int = 0
    """The greatest ``output_dimension``; 0 where the field is refused."""
    reasons: bool = False
    """Whether it reasons without being asked to."""


_VISION = "completion_chat function_calling vision"
_REASONING = f"{_VISION} reasoning"

MODELS: Mapping[str, Model] = {
    "mistral-small-latest": Model(_REASONING, efforts=("none", "high")),
    "mistral-small-2603": Model(_REASONING, efforts=("none", "high")),
    "mistral-medium-latest": Model(_REASONING, efforts=("none", "high")),
    "mistral-medium-3-5": Model(_REASONING, efforts=("none", "high")),
    "mistral-medium-2604": Model(_REASONING, efforts=("none", "high")),
    "mistral-large-latest": Model(_VISION),
    "ministral-3b-latest": Model(_VISION),
    "ministral-8b-latest": Model(_VISION),
    "magistral-small-latest": Model(_REASONING, efforts=("none", "high"), reasons=True),
    "zai-glm-5-3": Model("completion_chat function_calling reasoning", efforts=("low", "high", "max")),
    "devstral-latest": Model(),
    "codestral-latest": Model("completion_chat function_calling completion_fim"),
    "voxtral-small-latest": Model("completion_chat function_calling audio"),
    "mistral-embed": Model("", dimensions=1024),
    "codestral-embed": Model("", dimensions=1536, most_dimensions=3072),
    "mistral-moderation-latest": Model("moderation"),
    "mistral-ocr-latest": Model("ocr"),
}
"""By name, in the order of /v1/models. A tuned model, whose name begins with ``ft:``, is taken as well."""


def known(name: object) -> bool:
    """Whether a request may name this model."""
    return isinstance(name, str) and (name in MODELS or name.startswith("ft:"))


def card(name: str, description: str) -> dict[str, Any]:
    """What /v1/models tells of a model."""
    abilities = "completion_chat completion_fim function_calling vision audio reasoning moderation ocr".split()
    capabilities = {ability: ability in MODELS[name].abilities.split() for ability in abilities}
    head = {"id": name, "object": "model", "created": 0, "owned_by": "mistralai", "type": "base", "capabilities": capabilities}
    return {**head, "name": name, "description": description, "max_context_length": 131072, "aliases": [], "deprecation": None}
