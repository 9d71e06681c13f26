"""The rules that keep the house light: who may import what, and what is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistral_filter import errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mistral_filter"
FILES = [*sorted(PACKAGE.rglob("*.py")), ROOT / "app.py", ROOT / "gunicorn.conf.py"]


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imports(file: Path, *, typing_only: bool = True) -> set[str]:
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
    return found


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


UPSTREAM = {f"mistral_filter/proxy/upstream/{name}.py" for name in ("__init__", "connections", "failures")}
FLASK = {
    "app.py",
    "mistral_filter/flask.py",
    "mistral_filter/proxy/exchange.py",
    "mistral_filter/proxy/response.py",
    "mistral_filter/proxy/page/__init__.py",
    "mistral_filter/proxy/view.py",
}


@pytest.mark.parametrize(
    ("roots", "allowed"),
    [
        (("flask", "werkzeug"), FLASK),
        (("requests", "urllib3"), UPSTREAM),
        (("flask_cors",), {"app.py"}),
        (("gevent", "gunicorn"), {"gunicorn.conf.py"}),
        (("prometheus_client",), {"mistral_filter/proxy/metrics.py"}),
    ],
)
def test_a_library_is_imported_in_its_rooms_only(roots: tuple[str, ...], allowed: set[str]) -> None:
    """Each outside library has its place, so the core stays free of it."""
    found = importers(*roots)
    assert found <= allowed
    assert found or roots == ("gevent", "gunicorn")


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
    assert {name(file) for file in FILES if reads_environment(file)} == {"mistral_filter/proxy/settings.py", "gunicorn.conf.py"}


def test_the_filter_knows_nothing_of_the_proxy() -> None:
    """Only the proxy and the composition root import the proxy."""
    found = importers("mistral_filter.proxy")
    assert {file for file in found if not file.startswith("mistral_filter/proxy/")} == {"app.py"}


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
    for module in ("fields", "changes", "errors"):
        assert graph()[f"mistral_filter.{module}"] == set()


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
import mistral_filter.refusals
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
        "MAX_DEPTH",
        "BadRequest",
        "BodyTimeout",
        "BodyTooLarge",
        "ClientGone",
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
    ]
    defined = {each for each, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, Exception)}
    assert set(errors.__all__) - {"MAX_DEPTH"} == defined


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    """The drawing at the top of the file names every error at its depth in the inheritance, with its status."""
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "── " in line or line == "MistralFilterError"]
    root = len(errors.MistralFilterError.__mro__)
    depth = {line.strip("│├└─ ").split()[0]: (len(line) - len(line.lstrip("│├└─ "))) // 4 for line in drawn}
    assert depth == {each: len(getattr(errors, each).__mro__) - root for each in errors.__all__ if each != "MAX_DEPTH"}
    for line in drawn:
        each, _, rest = line.strip("│├└─ ").partition(" ")
        if rest.strip()[:3].isdigit() and each != "UpstreamError":
            assert getattr(errors, each).status == int(rest.strip()[:3]), each


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
            defined.update(target.id for target in targets if isinstance(target, ast.Name))
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
