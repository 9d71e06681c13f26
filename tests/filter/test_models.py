"""Models by the names that clients use for them, and what is known of a model by its name."""

from __future__ import annotations

import fnmatch
import json
import random
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from mistral_filter import MistralFilter, filter_body
from mistral_filter.explain import explain
from mistral_filter.fields import EFFORTS, REASONING
from mistral_filter.flask import init_app
from mistral_filter.models import MOST_ALIASES, check_models, matches, parse_models, reasoning_of
from mistral_filter.proxy.view import create_blueprint

MODELS = {"gpt-*": "mistral-small-latest", "gpt-4o": "mistral-large-latest"}
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}


def test_a_pattern_matches_as_the_standard_library_says() -> None:
    """``*`` stands for any characters, or none; nothing else is special."""
    dice = random.Random(0)
    matched = 0
    for _ in range(20_000):
        pattern = "".join(dice.choice("ab**") for _ in range(dice.randrange(7)))
        name = "".join(dice.choice("ab") for _ in range(dice.randrange(7)))
        assert matches(pattern, name) is fnmatch.fnmatchcase(name, pattern), (pattern, name)
        matched += matches(pattern, name)
    assert 2_000 < matched < 18_000


def test_nothing_but_a_star_is_special() -> None:
    """The other signs of shell patterns are themselves."""
    assert matches("gpt-[4]?", "gpt-[4]?")
    assert not matches("gpt-[4]?", "gpt-4o")


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ({"": "a"}, "not a model's name"),
        ({"gpt-4o": ""}, "not a model's name"),
        ({"gpt 4": "a"}, "not a model's name"),
        ({"gpt-4o": "a\n"}, "not a model's name"),
        ({"gpt-4o": "a\udc80"}, "not a model's name"),
        ({"gpt-4o": 1}, "not a model's name"),
        ({1: "a"}, "not a model's name"),
        ({"gpt-4o": "mistral-*"}, "the name of one model"),
        ({"a": "b", "b": "c"}, "'b' is an alias for 'c' and the model of another alias"),
        ({f"m{i}": "a" for i in range(MOST_ALIASES + 1)}, "more than 1000 names"),
    ],
)
def test_names_that_cannot_be_used_stop_the_start(models: Any, said: str) -> None:
    """The middleware, the Flask extension, the blueprint and the function refuse them with the reason."""
    app = Flask("test")
    with pytest.raises(ValueError, match=said):
        check_models(models)
    with pytest.raises(ValueError, match=f"models: .*{said}"):
        MistralFilter(app.wsgi_app, models=models)
    with pytest.raises(ValueError, match=said):
        init_app(app, models=models)
    with pytest.raises(ValueError, match=said):
        create_blueprint({}, filter_options={"models": models})
    with pytest.raises(ValueError, match=said):
        filter_body(json.dumps(BODY).encode(), models=models)


@pytest.mark.parametrize(
    ("text", "said"), [("gpt-4o", "write NAME=MODEL"), ("a=b a=c", "'a' is written twice"), ("a=b=c", "'b=c'")]
)
def test_a_text_that_cannot_be_read_says_why(text: str, said: str) -> None:
    """A setting that is written wrongly is not guessed at."""
    with pytest.raises(ValueError, match=said):
        parse_models(text)


def test_the_middleware_reports_the_other_model() -> None:
    """The application sees the model, and the client sees in a header that its name stood for it."""

    def application(environ: Any, start_response: Any) -> Any:
        model = json.loads(Request(environ).get_data())["model"]
        return Response(f"{model} {environ['mistral_filter.facts'].model}")(environ, start_response)

    client = Client(MistralFilter(application, models=MODELS))
    response = client.post("/v1/chat/completions", json=BODY, headers={"Mistral-Filter-Strict": "on"})
    assert response.text == "mistral-large-latest mistral-large-latest"
    assert response.headers["Mistral-Filter-Changes"] == 'set;path="model";to="mistral-large-latest";loss=none'


def test_explain_knows_the_names() -> None:
    """What explains a request resolves names as the filter does."""
    (change,) = explain(json.dumps(BODY).encode(), "chat", models=MODELS).changes
    assert (change.action, change.path, change.to, change.loss) == ("set", "model", "mistral-large-latest", "none")


def test_filtering_twice_is_filtering_once() -> None:
    """A model that an alias leads to is not renamed again, even where a pattern fits it."""
    models = {"gpt-4o": "mistral-large-latest", "*": "mistral-small-latest", "mistral-*": "codestral-latest"}
    for name in ("gpt-4o", "x", "mistral-medium-latest", "codestral-latest"):
        once = filter_body(json.dumps({**BODY, "model": name}).encode(), models=models).body
        assert filter_body(once, models=models)[:2] == (once, ())


def test_the_table_of_reasoning_is_well_formed() -> None:
    """Its efforts are words of EFFORTS, and every entry can be reached."""
    for known in REASONING:
        assert set(known.efforts or ()) <= set(EFFORTS)
        names = [pattern.replace("*", "x") for pattern in known.names]
        dated = [pattern.replace("*", f"x-{known.since or 2512}") for pattern in known.names]
        assert any(reasoning_of(name) is known for name in (*names, *dated)), known


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("mistral-small-2602", False),
        ("mistral-small-2603", True),
        ("mistral-small-2701", True),
        ("mistral-small-9912", True),
        ("mistral-small-2613", None),
        ("mistral-small-2200", None),
        ("mistral-small-0613", None),
        ("mistral-small-", None),
        ("mistral-small", None),
        ("mistral-medium-2603", None),
        ("mistral-medium-2605", True),
        ("magistral", True),
        ("", None),
        ("-2512", None),
        (None, None),
    ],
)
def test_a_date_at_the_end_of_a_name_counts(name: str | None, reads: bool | None) -> None:
    """Year and month decide between older and newer models of a family; a number that is no date says nothing."""
    known = reasoning_of(name)
    assert (known and known.reads) is reads
