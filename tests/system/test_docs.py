"""The pages of docs/: tables that are current, commands and flags that exist, code that compiles, links that work."""

import ast
import dataclasses
import functools
import json
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

import bert4rec_tf
from bert4rec_tf.config import Config, read_settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "BUILD.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "tfrecords/README.md",
]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
SECTIONS = {field.name: field.type for field in dataclasses.fields(Config)}
RUN_MARK = "<!-- A test runs this block. -->\n"
# Flags of other programs, which pages name outside commands.
FOREIGN_FLAGS = {
    "help", "backend-store-uri", "driver-memory", "master", "enable_batching", "model_config_file_poll_wait_seconds",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced code block, and whether a test runs it."""

    language: str
    code: str
    runs: bool


def blocks(text: str) -> list[Block]:
    fences = re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    return [Block(fence[2], fence[3], text[: fence.start()].endswith(RUN_MARK)) for fence in fences]


def code_spans(text: str) -> list[str]:
    without_blocks = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", without_blocks)]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The script and the arguments of each command of the project on a page."""
    lines = [line for block in blocks(text) if block.language == "bash" for line in joined(block.code)]
    for line in [*lines, *(span for span in code_spans(text) if span.startswith(("python ", "bert4rec-")))]:
        words = shlex.split(line, comments=True)
        for index, word in enumerate(words):
            is_script = word.endswith(".py") and not word.startswith("-")
            if is_script or (word in console_commands() and index == 0):
                yield word, words[index + 1 :]
                break


def joined(code: str) -> Iterator[str]:
    """Lines of a shell script; those that end in a backslash, or within quotes, are joined."""
    text = ""
    for line in code.replace("\\\n", " ").splitlines():
        text = f"{text}\n{line}" if text else line
        if text.count("'") % 2 == 0:
            yield text
            text = ""
    assert not text, text


@functools.cache
def console_commands() -> dict[str, str]:
    """The console commands of the package, and the file of each."""
    declared = re.findall(r'^bert4rec-([\w-]+) = "bert4rec_tf\.commands\.', text_of("pyproject.toml"), re.MULTILINE)
    return {f"bert4rec-{name}": f"bert4rec_tf/commands/{name.replace('-', '_')}.py" for name in declared}


@functools.cache
def flags_of(script: str) -> frozenset[str]:
    """The flags that a script and the modules of the project that it imports define."""
    seen: set[pathlib.Path] = set()
    ahead, found = [ROOT / console_commands().get(script, script)], set()
    while ahead:
        path = ahead.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("flags.DEFINE_"):
                found.add(ast.literal_eval(node.args[0]))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "runpy.run_module":
                ahead.append(ROOT / f"{ast.literal_eval(node.args[0]).replace('.', '/')}.py")
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "start":
                ahead.append(ROOT / f"bert4rec_tf/commands/{ast.literal_eval(node.args[0])}.py")
            elif isinstance(node, ast.ImportFrom) and node.module:
                named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                files = [ROOT / f"{name.replace('.', '/')}.py" for name in named]
                ahead += [file for file in files if file.is_file()]
    return frozenset(found)


@functools.cache
def all_flags() -> frozenset[str]:
    """The flags of every script of the project."""
    scripts = [path for path in ROOT.rglob("*.py") if ".venv" not in path.parts and "DEFINE_" in path.read_text()]
    return frozenset().union(*(flags_of(path.relative_to(ROOT).as_posix()) for path in scripts))


def flag_names(arguments: list[str]) -> list[str]:
    return [word.removeprefix("--").partition("=")[0] for word in arguments if word.startswith("--")]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_their_flags_exist(name: str) -> None:
    for script, arguments in commands(text_of(name)):
        path = ROOT / console_commands().get(script, script)
        assert path.is_file(), script
        for flag in flag_names(arguments):
            assert {flag, flag.removeprefix("no")} & flags_of(script), f"{script} --{flag}"


@pytest.mark.parametrize("name", NAMES)
def test_settings_and_recipes_of_commands_exist(name: str) -> None:
    for script, arguments in commands(text_of(name)):
        read_settings(None, [word.removeprefix("--set=") for word in arguments if word.startswith("--set=")])
        for word in arguments:
            config = word.removeprefix("--config=")
            if config != word and config not in ("ours.json", "auto", "searches/log/best.json"):
                is_recipe = config in bert4rec_tf.recipe_names()
                assert is_recipe or (ROOT / config).is_file(), f"{script} {word}"


@pytest.mark.parametrize("name", NAMES)
def test_settings_and_flags_in_the_text_exist(name: str) -> None:
    for span in code_spans(text_of(name)):
        for section, field in re.findall(
            r"(?<![\w./])(data|masking|model|training|evaluation)\.([a-z][a-z_0-9]+)", span
        ):
            assert field in {each.name for each in dataclasses.fields(SECTIONS[section])} | {"md", "py"}, span
        if not span.startswith(("pip ", "make ")):
            for flag in re.findall(r"(?<!\S)--([a-z][\w-]*)", span):
                assert flag in all_flags() | FOREIGN_FLAGS or span.startswith("python -m"), span


@pytest.mark.parametrize("name", NAMES)
def test_files_in_the_text_exist(name: str) -> None:
    folders = "bert4rec_tf|pipelines|tfrecords|deploy|tests|benchmarks|experiments|configs|docs|examples"
    for span in code_spans(text_of(name)):
        if re.fullmatch(rf"({folders})/[\w./-]*", span):
            assert (ROOT / span).exists(), span


@pytest.mark.parametrize("name", NAMES)
def test_code_blocks_are_valid(name: str) -> None:
    for block in blocks(text_of(name)):
        if block.language == "python":
            tree = ast.parse(block.code)
            used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
            of_package = {node.attr for node in used if ast.unparse(node.value) == "bert4rec_tf"}
            assert of_package <= {*bert4rec_tf.__all__}, block.code
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "bash":
            subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)


def test_marked_blocks_run(tmp_path: pathlib.Path) -> None:
    marked = [block for name in NAMES for block in blocks(text_of(name)) if block.runs]
    assert len(marked) == sum(text_of(name).count(RUN_MARK) for name in NAMES) > 1
    code = "\n".join(block.code for block in marked)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "2"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_tables_of_the_configuration_page_are_current() -> None:
    command = [sys.executable, "docs/configuration_tables.py"]
    tables = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip().split("\n\n")
    assert len(tables) == len(SECTIONS) + 2
    page = text_of("docs/configuration.md")
    for table in tables:
        name, _, rows = table.partition("\n")
        assert f"<!-- {name} -->\n{rows}\n<!-- end -->" in page, "run python docs/configuration_tables.py --write"


def test_every_setting_has_its_row() -> None:
    page = text_of("docs/configuration.md")
    for section in SECTIONS.values():
        for field in dataclasses.fields(section):
            assert f"\n| `{field.name}` |" in page


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("mkdocs", reason="requirements-docs.txt is not installed; make docs installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 16
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"', text), page
        assert 'class="mermaid"' not in text, page  # the theme would load its script from a server
    for sheet in tmp_path.rglob("*.css"):
        assert not re.findall(r"@import|url\((?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet
