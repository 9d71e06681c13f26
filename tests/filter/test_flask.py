"""``mistral_filter.flask.init_app`` on an application that was there before, with its own sessions, handlers and CORS."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from flask import Flask, Response, abort, jsonify, request, session
from flask_cors import CORS
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from mistral_filter.flask import FilterRefusal, _FlaskFilter, init_app
from mistral_filter.proxy.upstream import Upstream
from mistral_filter.proxy.view import create_blueprint

CHAT = "/v1/chat/completions"
GOOD = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
BAD = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"user":"u"}'
HEADER = "Mistral-Filter-Changes"
ORIGIN = "https://chat.example.com"


def host() -> Flask:
    """A foreign application with a login, a session, a chat route of its own and an after_request."""
    app = Flask("host")
    app.secret_key = "not a secret"
    app.config["seen"] = []

    @app.post("/login")
    def login() -> Response:
        session["user"] = request.form["user"]
        return jsonify(session["user"])

    @app.get("/me")
    def me() -> Response:
        return jsonify(session.get("user"))

    @app.post("/echo")
    def echo() -> bytes:
        return request.get_data()

    @app.post("/my/chat")
    @app.post(CHAT)
    def chat() -> Response:
        app.config["seen"].append(request.get_data())
        return jsonify(request.get_json())

    @app.get("/teapot")
    def teapot() -> Response:
        abort(418)

    @app.after_request
    def mark(response: Response) -> Response:
        response.headers["X-Host"] = "yes"
        return response

    return app


def post(app: Flask, path: str = CHAT, data: bytes = BAD, **headers: str) -> TestResponse:
    return app.test_client().post(path, data=data, content_type="application/json", headers=headers)


# ------------------------------------------------------------------------------------------------------ what stays the host's


def test_the_hosts_own_routes_are_untouched() -> None:
    """Login, session, raw bodies and error pages work as before."""
    app = init_app(host())
    client = app.test_client()
    assert client.post("/login", data={"user": "ann"}).json == "ann"
    assert client.get("/me").json == "ann"
    assert client.post("/echo", data=b"\x00not json").data == b"\x00not json"
    assert client.get("/teapot").status_code == 418
    assert client.get("/nowhere").status_code == 404
    assert client.get("/nowhere").content_type.startswith("text/html")
    assert client.get("/teapot").headers["X-Host"] == "yes"
    assert HEADER not in client.get("/me").headers


def test_it_returns_the_app_and_filters() -> None:
    """``init_app`` gives back the application, whose views see the filtered body."""
    app = host()
    assert init_app(app) is app
    response = post(app)
    assert app.config["seen"] == [GOOD]
    assert response.headers.getlist(HEADER) == ['drop;path="user";loss=none']
    assert response.headers["X-Host"] == "yes"


def test_options_are_passed_on() -> None:
    """The middleware's options are taken: routes of the host's own, another list."""
    app = init_app(host(), routes={"/my/chat": "chat"}, prefixes=(), fields="current")
    post(app, "/my/chat", b'{"n":2,"user":"u"}')
    post(app, CHAT, b'{"n":2,"user":"u"}')
    assert app.config["seen"] == [b'{"n":2}', b'{"n":2,"user":"u"}']


def test_two_apps_do_not_share_anything() -> None:
    """Nothing is kept outside the application: one with the filter does not filter another."""
    one, two = init_app(host()), host()
    post(one)
    post(two)
    assert (one.config["seen"], two.config["seen"]) == ([GOOD], [BAD])


# ------------------------------------------------------------------------------------------------ refusals are the host's too

REFUSED = [
    (b"{", {}, 400, "invalid_json"),
    (b"[]", {}, 400, "not_an_object"),
    (b"{}" + b" " * 200, {}, 413, "body_too_large"),
    (b"{}", {"Content-Encoding": "gzip"}, 415, "unsupported_content_encoding"),
    (b'{"logit_bias":{"1":1}}', {"Mistral-Filter-Strict": "on"}, 400, "strict"),
]


@pytest.mark.parametrize(("data", "headers", "status", "code"), REFUSED)
def test_without_a_handler_the_answer_is_the_errors_json(data: bytes, headers: dict[str, str], status: int, code: str) -> None:
    """A host without error handlers answers in the one shape, with its own after_request; its view is not called."""
    app = init_app(host(), max_body=100)
    response = post(app, data=data, **headers)
    assert response.status_code == status
    assert response.json["error"]["code"] == code
    assert response.headers["X-Host"] == "yes"
    assert app.config["seen"] == []


def test_a_disguised_path_is_a_404_inside_flask() -> None:
    """A disguised path gets the host's after_request too."""
    app = init_app(host())
    response = post(app, "/v1/chat/completions;x")
    assert (response.status_code, response.json["error"]["code"]) == (404, "not_found")
    assert response.headers["X-Host"] == "yes"


@pytest.mark.parametrize(("data", "headers", "status", "code"), REFUSED)
def test_the_hosts_handler_for_the_status_answers(data: bytes, headers: dict[str, str], status: int, code: str) -> None:
    """A handler that the host has for exactly this status, such as 413, is asked."""
    app = init_app(host(), max_body=100)

    @app.errorhandler(status)
    def own(error: HTTPException) -> tuple[str, int]:
        return f"own {error.code}", status

    response = post(app, data=data, **headers)
    assert (response.status_code, response.text) == (status, f"own {status}")


@pytest.mark.parametrize(("data", "headers", "status", "code"), REFUSED)
def test_the_hosts_handler_for_http_exceptions_answers(data: bytes, headers: dict[str, str], status: int, code: str) -> None:
    """A handler for all HTTP errors sees one: its code, name, description and response are usable."""
    app = init_app(host(), max_body=100)

    @app.errorhandler(HTTPException)
    def own(error: HTTPException) -> Any:
        assert error.name
        response = error.get_response()
        response.data = json.dumps({"code": error.code, "description": error.description})
        return response

    response = post(app, data=data, **headers)
    assert (response.status_code, response.json["code"]) == (status, status)
    assert response.json["description"]


def test_the_hosts_handler_for_all_exceptions_answers() -> None:
    """A handler for every exception is asked too, and finds the error itself."""
    app = init_app(host())

    @app.errorhandler(Exception)
    def own(error: Exception) -> tuple[str, int]:
        assert isinstance(error, FilterRefusal)
        return error.error.code or "", 400

    assert post(app, data=b"{").text == "invalid_json"


def test_the_refusal_comes_before_the_hosts_own_hooks() -> None:
    """A before_request of the host's, which might read the body, is not run for a refused request."""
    app, run = host(), []
    app.before_request(lambda: run.append(request.path))
    init_app(app)
    assert post(app, data=b"{").status_code == 400
    assert run == []
    post(app)
    assert run == [CHAT]


def test_a_path_that_the_host_does_not_have_is_refused_all_the_same() -> None:
    """A bad body for an endpoint without a view is a 400, not the 404 of an empty one."""
    app = init_app(Flask("empty"))
    assert post(app, data=b"{").status_code == 400
    assert post(app, data=GOOD).status_code == 404


# ---------------------------------------------------------------------------------------------------------------- fail closed


def test_without_the_hook_the_view_sees_an_empty_body() -> None:
    """An application whose hook is missing never gets the unfiltered body of a refused request."""
    app = host()
    app.wsgi_app = _FlaskFilter(app.wsgi_app, max_body=100)  # type: ignore[method-assign]
    for data in (b"{", BAD + b" " * 200):
        with app.test_request_context():
            response = app.test_client().post("/v1/chat/completions", data=data, content_type="application/json")
        assert response.status_code == 400
    assert app.config["seen"] == [b"", b""]


def test_a_defect_inside_never_lets_the_body_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the filter's own is a 500 that the host answers, and the view is not called."""

    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("S3cret")

    app = init_app(host())
    monkeypatch.setattr(app.wsgi_app, "_filter", broken)
    response = post(app)
    assert response.status_code == 500
    assert response.headers["X-Host"] == "yes"
    assert b"S3cret" not in response.data
    assert app.config["seen"] == []


# ----------------------------------------------------------------------------------------------------------------------- CORS


def cors_headers(response: TestResponse) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in response.headers if name.lower().startswith("access-control-"))


def test_the_hosts_own_cors_policy_wins() -> None:
    """With flask-cors on the host, good answers and refusals carry the host's policy, each header once."""
    app = host()
    CORS(app, origins=[ORIGIN], supports_credentials=True, expose_headers=["X-Host"])
    init_app(app, max_body=100)
    expected = [
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-origin", ORIGIN),
        ("access-control-expose-headers", "X-Host"),
    ]
    for data in (GOOD, b"{", b"{}" + b" " * 200):
        assert cors_headers(post(app, data=data, Origin=ORIGIN)) == expected
        assert cors_headers(post(app, data=data, Origin="https://chat.example.com.evil.example")) == []


@pytest.mark.parametrize("path", [CHAT, "/my/chat", "/login", "/nowhere"])
def test_a_preflight_is_the_hosts(path: str) -> None:
    """A preflight passes the filter and is answered by the host's flask-cors, without a body or a key."""
    app = host()
    CORS(app, origins=[ORIGIN])
    init_app(app)
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    response = app.test_client().options(path, headers=asked)
    assert [value for name, value in cors_headers(response) if name == "access-control-allow-origin"] == [ORIGIN]
    assert HEADER not in response.headers


def test_cors_after_init_app_is_the_same() -> None:
    """The order in which the host sets up the two does not matter."""
    app = init_app(host())
    CORS(app, origins=[ORIGIN])
    assert ("access-control-allow-origin", ORIGIN) in cors_headers(post(app, data=b"{", Origin=ORIGIN))


# ---------------------------------------------------------------------------------------------------------------- the proxy


@pytest.fixture
def merged() -> Flask:
    """A host with the forwarding blueprint in it, whose upstream does not listen."""
    app = Flask("merged")
    app.url_map.merge_slashes = False

    @app.get("/mine")
    def mine() -> str:
        return "mine"

    upstreams = {
        "": Upstream("http://127.0.0.1:9", connect_timeout=0.2),
        "other": Upstream("http://127.0.0.1:9", connect_timeout=0.2),
    }
    app.register_blueprint(create_blueprint(upstreams))
    CORS(app, origins=[ORIGIN])
    return init_app(app, prefixes=("", "/other"))


def test_the_blueprint_lives_beside_the_hosts_routes(merged: Flask) -> None:
    """The host's routes stay, the blueprint adds its own, and both have the host's CORS."""
    client = merged.test_client()
    assert client.get("/mine").text == "mine"
    assert client.get("/health").json == {"status": "ok"}
    assert client.get("/v1").json["object"] == "proxy"
    response = post(merged, data=b"{", Origin=ORIGIN)
    assert (response.status_code, response.json["error"]["code"]) == (400, "invalid_json")
    assert ("access-control-allow-origin", ORIGIN) in cors_headers(response)


@pytest.mark.parametrize(
    "path", [CHAT, f"/other{CHAT}", "/chat/completions", "//v1/chat/completions", "/v1/v1/chat/completions", f"{CHAT}/"]
)
def test_an_upstream_that_is_down_is_reported_with_the_changes(merged: Flask, path: str) -> None:
    """An error of the view's is JSON in the one shape, with the host's CORS and the header of changes, once each."""
    builder = {"PATH_INFO": path}
    response = merged.test_client().open(
        "/",
        method="POST",
        input_stream=io.BytesIO(BAD),
        content_length=len(BAD),
        headers={"Origin": ORIGIN},
        environ_overrides=builder,
    )
    assert response.status_code == 502
    assert response.json["error"]["code"] == "upstream_unreachable"
    assert response.headers.getlist(HEADER) == ['drop;path="user";loss=none']
    assert response.headers.getlist("Access-Control-Allow-Origin") == [ORIGIN]


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("GET", CHAT, 405, "POST"),
        ("DELETE", "/v1/embeddings", 405, "POST"),
        ("POST", "/v1/completions", 404, "is_chat_model=True"),
        ("POST", "/v1/images/generations", 404, "agents"),
        ("GET", "/dashboard/billing/subscription", 404, "billing"),
        ("POST", "/v1/./chat/completions", 404, CHAT),
        ("GET", "/v1/./chat/completions", 404, "/v1"),
        ("POST", "/v1", 404, CHAT),
        ("GET", "/nowhere", 404, "/v1"),
        ("GET", "/v1/../mine", 404, "/v1"),
    ],
)
def test_what_is_not_there_says_what_to_do(merged: Flask, method: str, path: str, status: int, word: str) -> None:
    """A path that Mistral does not have, or another method, is a JSON error whose sentence names the fix, without a request."""
    response = merged.test_client().open("/", method=method, data=GOOD, environ_overrides={"PATH_INFO": path})
    assert response.status_code == status
    assert response.content_type == "application/json"
    assert word in response.json["error"]["message"]
    assert status != 405 or "POST" in response.headers["Allow"]


def test_the_blueprint_alone_forwards_nothing() -> None:
    """Mounted without the filter in front: a request to an endpoint is refused, not forwarded unfiltered."""
    app = Flask(__name__)
    app.register_blueprint(create_blueprint({"": Upstream("http://127.0.0.1:9", connect_timeout=0.2)}))
    response = app.test_client().post(CHAT, json={"model": "m", "messages": [], "user": "u"})
    assert (response.status_code, response.json["error"]["code"]) == (500, "not_mounted")
    other = init_app(app, prefixes=("/elsewhere",)).test_client().post(CHAT, json={"model": "m", "messages": []})
    assert (other.status_code, other.json["error"]["code"]) == (500, "not_mounted")
