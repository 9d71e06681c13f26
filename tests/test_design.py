"""The rules that keep the house light: who may import what, and what is installed."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from mistral_filter import errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mistral_filter"
ERRORS = {each: thing for each, thing in vars(errors).items() if inspect.isclass(thing) and issubclass(thing, Exception)}
FILES = [*sorted(PACKAGE.rglob("*.py")), ROOT / "app.py", ROOT / "gunicorn.conf.py"]


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def imports(file: Path, *, typing_only: bool = True) -> frozenset[str]:
    """The modules that a file imports, in full; without those under ``if TYPE_CHECKING`` when they do not count."""
    tree = ast.parse(file.read_text("utf-8"))
    skipped: set[ast.AST] = set()
    if not typing_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                skipped.update(ast.walk(node))
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)}: a relative import"
            assert node.module is not None
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(dotted if is_module(dotted) else node.module for dotted in whole)
    return frozenset(found)


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def importers(*roots: str) -> set[str]:
    """The files that import one of these packages or something in it."""
    return {
        name(file)
        for file in FILES
        if any(module == root or module.startswith(f"{root}.") for module in imports(file) for root in roots)
    }


# -------------------------------------------------------------------------------------------------------------- the import law


UPSTREAM = {f"mistral_filter/proxy/upstream/{name}.py" for name in ("__init__", "transport")}
GUNICORN = {
    f"mistral_filter/proxy/{name}.py"
    for name in ("gunicorn/logger", "gunicorn/messages", "gunicorn/refusing", "gunicorn/worker", "serve")
}
FLASK = {
    f"mistral_filter/{name}.py"
    for name in ("flask", "proxy/app", "proxy/forward", "proxy/page/__init__", "proxy/reply", "proxy/view")
}


@pytest.mark.parametrize(
    ("roots", "allowed"),
    [
        (("flask", "werkzeug"), FLASK),
        (("requests",), UPSTREAM),
        (("urllib3",), set()),
        (("flask_cors",), {"mistral_filter/proxy/app.py"}),
        (("gevent",), {"mistral_filter/proxy/gunicorn/worker.py", "mistral_filter/proxy/sockets.py"}),
        (("gunicorn",), GUNICORN),
        (("click",), {f"mistral_filter/command/{name}.py" for name in ("__init__", "check", "explain", "serve")}),
        (("prometheus_client",), {"mistral_filter/proxy/metrics.py"}),
    ],
)
def test_a_library_is_imported_in_its_rooms_only(roots: tuple[str, ...], allowed: set[str]) -> None:
    """Each outside library has its place, so the core stays free of it."""
    found = importers(*roots)
    assert found <= allowed
    assert found or not allowed


def reads_environment(file: Path) -> bool:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("environ", "environb", "getenv", "putenv")
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        ):
            return True
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {alias.name for alias in node.names} & {"environ", "environb", "getenv"}
        ):
            return True
    return False


def test_the_environment_is_read_in_one_place() -> None:
    """Settings come from one table; gunicorn's own file reads what the platforms set."""
    allowed = {"mistral_filter/proxy/settings.py", "mistral_filter/proxy/gunicorn_conf.py"}
    assert {name(file) for file in FILES if reads_environment(file)} == allowed


def test_the_filter_knows_nothing_of_the_proxy() -> None:
    """Only the proxy, the command and the composition root import the proxy."""
    found = importers("mistral_filter.proxy")
    others = {file for file in found if not file.startswith(("mistral_filter/proxy/", "mistral_filter/command/"))}
    assert others == {"app.py", "gunicorn.conf.py"}


def test_only_the_composition_root_is_above() -> None:
    """Nothing imports ``app``, and the package imports nothing from the tests."""
    assert importers("app", "tests") == set()


def graph() -> dict[str, set[str]]:
    """The package's modules and what each imports when it runs."""
    modules = {
        name(file).removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES if file.parent != ROOT
    }
    return {
        module: {other for other in imports(file, typing_only=False) if other in modules and other != module}
        for module, file in modules.items()
    }


def circles(of: dict[str, set[str]]) -> Iterator[list[str]]:
    def walk(module: str, path: list[str]) -> Iterator[list[str]]:
        if module in path:
            yield path[path.index(module) :]
            return
        for other in of[module]:
            yield from walk(other, [*path, module])

    for module in of:
        yield from walk(module, [])


def test_there_are_no_circles() -> None:
    """No module is, by whatever way round, imported by what it imports."""
    found = graph()
    assert len(found) > 15
    assert next(circles(found), []) == []
    assert next(circles({**found, "mistral_filter.fields": {"mistral_filter.filtering"}}), []) != []


def test_the_tables_and_the_records_stand_on_nothing() -> None:
    """Data and errors import nothing of the package, so every room can use them."""
    found = graph()
    tables = {module for module in found if module.startswith("mistral_filter.fields")}
    assert len(tables) > 5
    assert set().union(*(found[module] for module in tables)) < tables
    for module in ("changes", "errors"):
        assert found[f"mistral_filter.{module}"] == set()


# --------------------------------------------------------------------------------------------------- only msgspec is needed

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("msgspec", "mistral_filter"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Block())
try:
    import flask
except ImportError:
    pass
else:
    raise SystemExit("the hook does not block")
import mistral_filter
from mistral_filter.__main__ import main
from mistral_filter.explain import explain
assert mistral_filter.filter_body(b'{"user":1}').body == b"{}"
assert callable(mistral_filter.MistralFilter(lambda environ, start_response: []))
assert not [name for name in sys.modules if name.startswith("mistral_filter.proxy")]
print("ok")
"""


def test_the_filter_needs_msgspec_only() -> None:
    """``import mistral_filter`` works, filters and mounts with nothing installed but msgspec."""
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(BLOCKED)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ok\n", "")


def test_the_dependencies_say_so() -> None:
    """Installing the package without extras installs msgspec and nothing else."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("dependencies = ")]
    assert [requirement.split(">")[0] for requirement in ast.literal_eval(line.removeprefix("dependencies = "))] == ["msgspec"]


# -------------------------------------------------------------------------------------------------------------- what is public


def test_the_errors_are_exactly_these() -> None:
    """A new error is a decision: it needs a status, a code and a place in the tree."""
    assert errors.__all__ == [
        "CODES",
        "MAX_DEPTH",
        "NO_RETRY",
        "BadRequest",
        "BodyTimeout",
        "BodyTooLarge",
        "ClientGone",
        "Code",
        "InvalidJSON",
        "MethodNotAllowed",
        "MistralFilterError",
        "NotFound",
        "Overloaded",
        "Refused",
        "TooComplex",
        "TooDeep",
        "Unauthorized",
        "UnsupportedEncoding",
        "UpstreamError",
        "from_status",
    ]
    assert {each for each in errors.__all__ if inspect.isclass(getattr(errors, each))} == {*ERRORS, "Code"}


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    """The drawing at the top of the file names every error at its depth in the inheritance, with its status."""
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "── " in line or line.startswith("MistralFilterError ")]
    root = len(errors.MistralFilterError.__mro__)
    depth = {line.strip("│├└─ ").split()[0]: (len(line) - len(line.lstrip("│├└─ "))) // 4 for line in drawn}
    assert depth == {each: len(error.__mro__) - root for each, error in ERRORS.items()}
    for line in drawn:
        each, _, rest = line.strip("│├└─ ").partition(" ")
        if rest.strip()[:3].isdigit() and each != "UpstreamError":
            assert errors.CODES[ERRORS[each].code].status == int(rest.strip()[:3]), each


def constructed_codes(file: Path) -> Iterator[str]:
    """The codes in a file: ``code="…"`` in calls, the default of a class of errors, and the argument of UpstreamError."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call):
            values += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            if isinstance(node.func, ast.Name) and node.func.id == "UpstreamError":
                values += node.args[:1]
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name) and each.targets[0].id == "code":
                    values.append(each.value)
        yield from (value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str))


def test_every_code_that_is_raised_is_in_the_table() -> None:
    """A misspelt code would be a KeyError in the middle of a refusal: it is found here."""
    files = [file for file in FILES if file.parent.name != "sandbox"]  # that one speaks for Mistral
    found = {code: name(file) for file in files for code in constructed_codes(file)}
    assert {"invalid_json", "bad_path", "upstream_cut", "internal"} <= found.keys()
    assert {code: file for code, file in found.items() if code not in errors.CODES} == {}


def test_an_error_is_what_its_code_says() -> None:
    """Status, type and message come from the table; a message and headers of its own are kept; an unknown code is a defect."""
    for code, (status, kind, sentence) in errors.CODES.items():
        error = errors.MistralFilterError(code=code)
        assert (error.status, error.type, error.message, str(error)) == (status, kind, sentence, sentence)
        assert json.loads(error.body()) == {"error": {"message": sentence, "type": kind, "param": None, "code": code}}
        by_status = "invalid_request_error" if status < 500 else "server_error"
        assert kind == {401: "authentication_error"}.get(status, "upstream_error" if code.startswith("upstream_") else by_status)
    busy = errors.Overloaded("Wait.", code="body_budget", headers=[errors.NO_RETRY])
    assert (busy.status, busy.message, busy.headers) == (503, "Wait.", (("Retry-After", "1"), ("X-Should-Retry", "false")))
    assert errors.Overloaded().headers == (("Retry-After", "1"),)
    for make in (errors.MistralFilterError, errors.Overloaded):
        with pytest.raises(KeyError, match="no_such"):
            make("A message.", code="no_such")
    with pytest.raises(KeyError, match="no_such"):
        errors.UpstreamError("no_such", "A message.")
    with pytest.raises(AttributeError):
        busy.status = 200  # type: ignore[misc]


def test_an_error_answers_with_a_phrase_and_its_headers() -> None:
    """As a WSGI application every code has a status line with a phrase, and HEAD gets no body."""
    for code, (status, *_) in errors.CODES.items():
        error = errors.MistralFilterError(code=code, headers=[("X-A", "b")])
        body, line, headers = run_wsgi_app(error, EnvironBuilder().get_environ())
        assert b"".join(body) == error.body()
        assert re.fullmatch(rf"{status} [A-Z][A-Za-z -]+", line)
        assert (headers["X-A"], headers["Content-Length"]) == ("b", str(len(error.body())))
        assert list(run_wsgi_app(error, EnvironBuilder(method="HEAD").get_environ())[0]) == []


def test_a_detached_error_keeps_no_frame_alive() -> None:
    """What is put into an environ holds neither a traceback nor the exceptions that came before it."""

    class Body:
        """Something large."""

    def refuse(body: Body) -> errors.MistralFilterError:
        try:
            try:
                raise ValueError
            except ValueError as cause:
                raise errors.InvalidJSON("No.") from cause
        except errors.MistralFilterError as error:
            return error

    body = Body()
    alive = weakref.ref(body)
    kept = refuse(body)
    del body
    assert alive() is not None, "the frames of the traceback hold it"
    assert kept.detached() is kept
    gone = alive() is None
    assert (gone, kept.__traceback__, kept.__context__, kept.__cause__, kept.message) == (True, None, None, None, "No.")


@pytest.mark.parametrize(
    ("status", "code", "answered"),
    [
        (400, "bad_request", 400),
        (404, "not_found", 404),
        (405, "method_not_allowed", 405),
        (413, "body_too_large", 413),
        (418, "bad_request", 400),
        (431, "request_header_fields_too_large", 431),
        (500, "internal", 500),
        (501, "not_implemented", 501),
        (507, "internal", 500),
    ],
)
def test_the_frameworks_own_statuses_have_codes(status: int, code: str, answered: int) -> None:
    """What Flask or gunicorn answers by itself is an error of the table too."""
    error = errors.from_status(status, [("Allow", "GET")])
    assert (error.code, error.status, error.headers) == (code, answered, (("Allow", "GET"),))


def test_every_module_says_what_is_public() -> None:
    """Each module of the package has an exact ``__all__`` of names that it defines, or none to give."""
    for file in FILES:
        tree = ast.parse(file.read_text("utf-8"))
        lists = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
        ]
        defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            defined.update(name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
            if isinstance(node, ast.ImportFrom):
                defined.update(alias.asname or alias.name for alias in node.names)
        for public in lists:
            assert len(set(public)) == len(public)
            assert set(public) <= defined, name(file)


def test_the_package_is_installed_whole() -> None:
    """pyproject.toml names every folder of the package that holds code."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("packages = ")]
    assert ast.literal_eval(line.removeprefix("packages = ")) == sorted(
        name(file.parent).replace("/", ".") for file in PACKAGE.rglob("__init__.py")
    )
    assert {file.parent for file in PACKAGE.rglob("*.py")} == {file.parent for file in PACKAGE.rglob("__init__.py")}
    assert (PACKAGE / "py.typed").is_file()


def test_nothing_is_printed_and_no_exception_is_quoted() -> None:
    """The package's code never prints, and no error's message is made of another exception's text in the filter's rooms."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print" or file.parent == PACKAGE / "sandbox", name(file)
