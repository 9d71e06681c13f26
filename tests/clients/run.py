"""Runs clients that are too large for every test run, through gunicorn to the stand-in.

``PYTHONPATH=tests/tools python tests/clients/run.py [CLIENT ...]`` in the folder and environment of ``make test``. The clients
are ``python`` (openai-agents, pydantic-ai, LangChain), ``agents`` (openai-agents for Node), ``codex`` (Codex CLI, which also runs
one harmless shell command); all of them where none is named. Each is installed in its newest version under ``--cache`` (a folder
of its own in the temporary directory), which needs the network, Node and npm. Exit status 1 if a client failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from servers import Gunicorn, Sandbox

HERE = Path(__file__).resolve().parent
PACKAGES = ("openai-agents", "pydantic-ai-slim[openai]", "langchain", "langchain-openai")
CODEX = """
model = "mistral-small-latest"
model_provider = "mistral"

[model_providers.mistral]
name = "Mistral"
base_url = "{base}"
env_key = "MISTRAL_API_KEY"
wire_api = "responses"
"""


def call(*command: object, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program without the developer's keys and settings; its output is captured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "MISTRAL_", "CODEX_"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )


def shown(done: subprocess.CompletedProcess[str]) -> bool:
    print(done.stdout.strip())
    return not done.returncode


def install(*command: object) -> None:
    done = call(*command)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}")


def python(cache: Path, base: str) -> bool:
    venv = cache / "venv"
    if not venv.exists():
        install(sys.executable, "-m", "venv", venv)
    install(venv / "bin" / "pip", "install", "--quiet", "--upgrade", *PACKAGES)
    return shown(call(venv / "bin" / "python", HERE / "python_clients.py", OPENAI_BASE_URL=base, OPENAI_API_KEY="none"))


def npm(folder: Path, *packages: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    install("npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts", *packages)


def agents(cache: Path, base: str) -> bool:
    folder = cache / "agents"
    npm(folder, "@openai/agents", "openai", "zod")
    script = folder / "agents.mjs"
    script.write_text((HERE / "agents.mjs").read_text())
    return shown(call("node", script, base, cwd=folder))


def codex(cache: Path, base: str) -> bool:
    npm(cache / "codex", "@openai/codex")
    program = cache / "codex" / "node_modules" / ".bin" / "codex"
    right = True
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "config.toml").write_text(CODEX.format(base=base))
        environ = {"HOME": home, "CODEX_HOME": home, "MISTRAL_API_KEY": "none"}
        print(call(program, "--version", **environ).stdout.splitlines()[-1])
        # Codex's own sandbox needs rights that containers do not have; the one command that is run is written here.
        command = [program, "exec", "--skip-git-repo-check", "-c", "sandbox_mode=danger-full-access"]
        tool = 'Call exec_command {"cmd": "echo it-was-here > proof.txt"}'
        turns: dict[str, tuple[list[str], str]] = {
            "plain": (["Hi"], "no model was asked."),
            "a tool turn": ([tool], "The result of the tool has arrived."),
            "a tool turn with reasoning": (["-c", "model_reasoning_effort=high", tool], "The result of the tool has arrived."),
            "the session goes on": (["resume", "--last", "And now?"], "no model was asked."),
        }
        for name, (arguments, end) in turns.items():
            done = call(*command, *arguments, cwd=Path(home), **environ)
            ok = not done.returncode and done.stdout.rstrip().endswith(end)
            print("ok  " if ok else "FAIL", name, "" if ok else done.stdout[-3000:])
            right = right and ok
        proof = Path(home) / "proof.txt"
        right = right and proof.exists() and proof.read_text() == "it-was-here\n"
        print("ok  " if proof.exists() else "FAIL", "the command has run")
    return right


CLIENTS: dict[str, Callable[[Path, str], bool]] = {"python": python, "agents": agents, "codex": codex}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("client", nargs="*", choices=[*CLIENTS, []], help="which to run (default: all)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mistral-filter-clients")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = stack.enter_context(Sandbox(logs))
        proxy = stack.enter_context(Gunicorn(logs, MISTRAL_FILTER_UPSTREAM=sandbox.url))
        results = [CLIENTS[name](options.cache, f"{proxy.url}/v1") for name in options.client or CLIENTS]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
