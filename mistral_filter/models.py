"""What a model's name means: aliases of the operator's own, and what ``mistral_filter.fields`` knows of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from mistral_filter.fields import EFFORTS, REASONING, Reasoning

__all__ = ["Aliases", "aliases_of", "check_models", "matches", "nearest_word", "parse_models", "reasoning_of"]

_NAME = re.compile(r"[^\s,=\x00-\x1f\x7f\ud800-\udfff]+")
_DATE = re.compile(r"-(\d\d(?:0[1-9]|1[0-2]))")

MOST_ALIASES = 1000
"""A request may be compared with every one."""


def matches(pattern: str, name: str) -> bool:
    """Whether *pattern* is *name*, where each ``*`` of the pattern stands for any characters, or none. In linear time."""
    first, *pieces = pattern.split("*")
    if not pieces:
        return name == pattern
    if not name.startswith(first):
        return False
    at = len(first)
    for piece in pieces[:-1]:
        at = name.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return len(name) - len(pieces[-1]) >= at and name.endswith(pieces[-1])


class Aliases(NamedTuple):
    """Models by the names that clients use for them."""

    exact: Mapping[str, str]
    patterns: tuple[tuple[str, str], ...]
    """Names with ``*``, in the order written."""
    models: frozenset[str]

    def resolve(self, name: str) -> str:
        """The model that *name* means: by an exact name, else by the first pattern that matches, else *name* itself.

        A name that is the model of an alias is that model already, so filtering twice is filtering once.
        """
        if name in self.models:
            return name
        if name in self.exact:
            return self.exact[name]
        return next((model for pattern, model in self.patterns if matches(pattern, name)), name)


def check_models(models: Mapping[str, str]) -> Aliases:
    """The aliases ``{name or pattern: model}``. Raises ValueError with what is wrong with them."""
    if len(models) > MOST_ALIASES:
        raise ValueError(f"there are more than {MOST_ALIASES} names; write patterns, such as gpt-*")
    for name, model in models.items():
        for text in (name, model):
            if not isinstance(text, str) or not _NAME.fullmatch(text):
                raise ValueError(f"{text!r} is not a model's name: write one without spaces, commas and equals signs")
        if "*" in model:
            raise ValueError(f"{model!r} must be the name of one model: a * may stand in the name before it only")
    targets = frozenset(models.values())
    for name, model in models.items():
        if name in targets and name != model:
            raise ValueError(f"{name!r} is an alias for {model!r} and the model of another alias: write the last model for both")
    patterns = tuple((name, model) for name, model in models.items() if "*" in name)
    return Aliases({name: model for name, model in models.items() if "*" not in name}, patterns, targets)


@lru_cache(maxsize=64)
def aliases_of(pairs: tuple[tuple[str, str], ...]) -> Aliases:
    """``check_models`` for the items of a mapping; an application uses few mappings, and each in every request."""
    return check_models(dict(pairs))


def parse_models(text: str) -> dict[str, str]:
    """``NAME=MODEL …`` as a mapping. Raises ValueError with what is wrong with it."""
    models: dict[str, str] = {}
    for item in text.replace(",", " ").split():
        name, equals, model = item.partition("=")
        if not equals:
            raise ValueError("write NAME=MODEL, such as gpt-4o=mistral-large-latest gpt-*=mistral-small-latest")
        if name in models:
            raise ValueError(f"{name!r} is written twice")
        models[name] = model
    check_models(models)
    return models


def reasoning_of(model: str | None) -> Reasoning | None:
    """What is known of how *model* reasons; None: nothing is known of a model of this name."""
    if model is None:
        return None
    for names, known in _REASONING:
        if names.fullmatch(model):
            dated = _DATE.fullmatch(model[-5:])
            if known.includes(int(dated[1]) if dated else None):
                return known
    return None


def _expression(pattern: str) -> str:
    return ".*".join(map(re.escape, pattern.split("*")))


_REASONING = [(re.compile("|".join(map(_expression, known.names)), re.DOTALL), known) for known in REASONING]


def nearest_word(word: str | None, among: Sequence[str]) -> str | None:
    """The word of *among* that is nearest to *word*, all of EFFORTS; of two equally near ones the greater. None: none is."""
    if word not in EFFORTS or not among:
        return None
    place = EFFORTS.index(word)
    return min(among, key=lambda other: (abs(EFFORTS.index(other) - place), -EFFORTS.index(other)))
