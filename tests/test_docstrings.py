"""Every public name has an example in its docstring, and all examples run.

The docstring of `bert4rec_tf` builds records and trains a tiny model on them. All other examples continue from there,
in the same directory: they use its names and its paths "data" and "model".
"""

import ast
import dataclasses
import doctest
import functools
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import bert4rec_tf

# Beside the names of `bert4rec_tf`: the record format, for programs that read or write records themselves.
MODULES = (
    "bert4rec_tf.api.recipes",
    "pipelines.build",
    "tfrecords.manifest",
    "tfrecords.schema",
    "tfrecords.vocabulary",
    "tfrecords.writer",
)
SLOW = {"bert4rec_tf.serving.export"}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_objects() -> Iterator[tuple[str, Any]]:
    """Public functions, classes, and the public methods and properties that these classes have from our code."""
    named = {name: getattr(bert4rec_tf, name) for name in bert4rec_tf.__all__ if name != "__version__"}
    for module in map(importlib.import_module, MODULES):
        defined = {f"{module.__name__}.{name}": value for name, value in vars(module).items() if name[0] != "_"}
        named |= {name: value for name, value in defined.items() if getattr(value, "__module__", "") == module.__name__}
    for name, value in named.items():
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value
        if inspect.isclass(value):
            ours = [base for base in value.__mro__ if base.__module__.split(".")[0] in ("bert4rec_tf", "tfrecords")]
            members = functools.reduce(lambda found, base: {**vars(base), **found}, ours, {})
            fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
            for member, attribute in members.items():
                function = getattr(attribute, "__func__", attribute)  # of a class method
                if member[0] != "_" and member not in fields and isinstance(function, property | type(public_objects)):
                    yield f"{name}.{member}", function


def documented_modules() -> dict[str, ModuleType]:
    """The modules that define the public names."""
    names = {getattr(value, "fget", value).__module__ for _, value in public_objects()}
    return {name: sys.modules[name] for name in sorted(names)}


def has_example(value: Any) -> bool:
    return ">>> " in (value.__doc__ or "")


def is_run(test: doctest.DocTest) -> bool:
    needs_pandas = any("pandas" in example.source for example in test.examples)
    return bool(test.examples) and (not needs_pandas or importlib.util.find_spec("pandas") is not None)


def failures(name: str, docstrings: list[doctest.DocTest], names: dict[str, Any], keep: bool = False) -> list[str]:
    """The reports of doctest on examples that fail; `names` are the names that examples may use."""
    reported: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=OPTIONS)
    for docstring in docstrings:
        docstring.globs.update(names)
        runner.run(docstring, out=reported.append, clear_globs=not keep)
    assert runner.tries > 0, name
    return reported


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names that the example of the package makes; the working directory is the one it wrote to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        names: dict[str, Any] = {}
        docstring = doctest.DocTestParser().get_doctest(bert4rec_tf.__doc__, names, "bert4rec_tf", None, None)
        names = docstring.globs
        assert not failures("bert4rec_tf", [docstring], {}, keep=True)
        yield {name: value for name, value in names.items() if not name.startswith("__")}


def run_examples(modules: dict[str, ModuleType], names: dict[str, Any]) -> None:
    finder = doctest.DocTestFinder()
    found = {name: [test for test in finder.find(module) if is_run(test)] for name, module in modules.items()}
    reports = [report for name, docstrings in found.items() for report in failures(name, docstrings, names)]
    assert not reports, "\n".join(reports)


def test_every_public_name_has_an_example() -> None:
    found = dict(public_objects())
    assert len(found) > 60
    assert {"train", "Config.from_dict", "Bert4Rec.call", "Vocabulary.size", "tfrecords.schema.encode"} <= found.keys()
    assert [name for name, value in found.items() if not has_example(value)] == []


@pytest.mark.slow
def test_examples_run(trained: dict[str, Any]) -> None:
    run_examples({name: module for name, module in documented_modules().items() if name not in SLOW}, trained)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_slow_examples_run(name: str, trained: dict[str, Any]) -> None:
    run_examples({name: documented_modules()[name]}, trained)


def test_public_names_are_listed_typed_and_load_on_first_use() -> None:
    tree = ast.parse(pathlib.Path(bert4rec_tf.__file__).read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    typed = {alias.name: node.module for node in imported for alias in node.names}
    assert typed == {name: getattr(bert4rec_tf, name).__module__ for name in bert4rec_tf.__all__[1:]}
    assert set(bert4rec_tf.__all__) <= set(dir(bert4rec_tf))
    for name in bert4rec_tf.__all__:
        assert getattr(bert4rec_tf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = bert4rec_tf.no_such_name
