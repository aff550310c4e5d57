"""Which modules may import which."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("bert4rec_tf", "pipelines", "tfrecords")
SCRIPTS = {
    "train", "evaluate", "export", "recommend", "search", "explore", "pipelines.make_tfrecords", "deploy",
    "deploy.client",
}  # fmt: skip
COMMANDS = "bert4rec_tf.commands"  # scripts too, which only `entry_point.start` imports
SHARED_BY_COMMANDS = {f"{COMMANDS}.{name}" for name in ("entry_point", "log_flags")}
# The longest name that matches a module decides what of ours it may import.
_GROUND = "tfrecords."
_INPUTS, _MODEL, _EVALUATION = (f"bert4rec_tf.{wing}." for wing in ("inputs", "model", "evaluation"))
_CONFIG = "bert4rec_tf.config"
_MODEL_DIR = tuple(f"bert4rec_tf.{name}" for name in ("checkpoints", "model_dir", "model_store", "trained_average"))
_LEGACY_KERAS = "bert4rec_tf.legacy_keras"
MAY_IMPORT = {
    "tfrecords": (_GROUND,),
    "pipelines": ("pipelines.", _GROUND),
    "pipelines.sources": ("pipelines.sources.", _GROUND),
    "pipelines.engines": ("pipelines.sources.", "pipelines.engines.", "pipelines.progress", _GROUND),
    "pipelines.stages": ("pipelines.engines.base", "pipelines.stages.", _GROUND),
    "pipelines.make_tfrecords": ("pipelines.", "bert4rec_tf.", _GROUND),
    "bert4rec_tf.__init__": ("bert4rec_tf.", "pipelines.", _GROUND),  # for type checkers only
    "bert4rec_tf.api": ("bert4rec_tf.", "pipelines.", _GROUND),
    "bert4rec_tf.command_line": (_GROUND,),
    COMMANDS: ("bert4rec_tf.", "pipelines.", _GROUND),
    "bert4rec_tf.legacy_keras": (),
    "bert4rec_tf.code_version": (),
    "bert4rec_tf.config": (_GROUND,),
    "bert4rec_tf.inputs": (_INPUTS, _GROUND),
    "bert4rec_tf.model": (_MODEL, _CONFIG, _LEGACY_KERAS, _GROUND),
    "bert4rec_tf.evaluation": (_EVALUATION, _INPUTS, _GROUND),
    "bert4rec_tf.checkpoints": (_MODEL, _CONFIG, _GROUND),
    "bert4rec_tf.model_store": (_GROUND,),
    "bert4rec_tf.model_dir": (_MODEL, _CONFIG, "bert4rec_tf.checkpoints", "bert4rec_tf.model_store", _GROUND),
    "bert4rec_tf.trained_average": (_MODEL, _CONFIG, "bert4rec_tf.model_dir", _GROUND),
    "bert4rec_tf.search": (
        "bert4rec_tf.search.", "bert4rec_tf.report.charts", "bert4rec_tf.report.markup", _CONFIG, *_MODEL_DIR, _GROUND,
    ),
    "bert4rec_tf.explorer": (
        "bert4rec_tf.explorer.", "bert4rec_tf.serving.", "bert4rec_tf.report.markup",
        "bert4rec_tf.report.number_format", _INPUTS, _GROUND,
    ),
    "bert4rec_tf.tracking": (
        "bert4rec_tf.tracking.", "bert4rec_tf.__version__", "bert4rec_tf.code_version", "bert4rec_tf.serving.export",
        "bert4rec_tf.evaluation.metrics", _CONFIG, _GROUND,
    ),
    "bert4rec_tf.scoring": (
        "bert4rec_tf.scoring.", "bert4rec_tf.serving.", "pipelines.engines.base", "pipelines.progress",
        "pipelines.sources.", _GROUND,
    ),
    **{
        f"bert4rec_tf.{wing}": (
            f"bert4rec_tf.{wing}.", _INPUTS, _MODEL, _EVALUATION, _CONFIG, *_MODEL_DIR, _LEGACY_KERAS,
            "bert4rec_tf.__version__", "bert4rec_tf.code_version", _GROUND,
        )
        for wing in ("training", "serving", "report")
    },
}  # fmt: skip


def imports(path: pathlib.Path) -> set[str]:
    """Modules that a file imports; `from tfrecords import schema` counts as tfrecords.schema."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            of_package = (ROOT / str(node.module).replace(".", "/")).is_dir()
            whole = of_package or node.module in ("absl", "tensorflow")
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if whole else {node.module}
    return found


def modules() -> dict[str, set[str]]:
    """What each module of ours imports."""
    files = [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): imports(path) for path in files}


def test_rooms_import_only_what_they_may() -> None:
    below_scripts = {name: imported for name, imported in modules().items() if name.split(".")[0] in PACKAGES}
    assert len(below_scripts) > 30
    for name, imported in below_scripts.items():
        may = MAY_IMPORT[max((room for room in MAY_IMPORT if f"{name}.".startswith(f"{room}.")), key=len, default="")]
        of_ours = {module for module in imported if module.split(".")[0] in PACKAGES}
        assert not {module for module in of_ours if not module.startswith(may)}, name


def test_no_module_imports_a_script_keras_3_or_flags() -> None:
    for name, imported in modules().items():
        is_script = name in SCRIPTS or name.startswith(f"{COMMANDS}.")
        commands = {module for module in imported if f"{module}.".startswith(f"{COMMANDS}.")}
        assert commands <= (SHARED_BY_COMMANDS if "." in name else {f"{COMMANDS}.entry_point"}), name
        assert is_script or not commands, name
        assert not imported & SCRIPTS, name
        assert not {module for module in imported if module.split(".")[0] == "keras"}, name
        if not is_script:
            assert not imported & {"absl.flags", "absl.app"}, name


def reached(module: str, imported: dict[str, set[str]]) -> set[str]:
    """Our modules that a module imports, directly or through others."""
    found, ahead = set(), [module]
    while ahead:
        for name in imported[ahead.pop()] & imported.keys() - found:
            found.add(name)
            ahead.append(name)
    return found


def test_every_module_with_keras_checks_which_keras_it_is() -> None:
    imported = modules()
    with_keras = [
        name
        for name in imported
        if name.startswith("bert4rec_tf.")
        and "tf.keras." in (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    ]
    assert len(with_keras) > 8
    for name in with_keras:
        assert name == "bert4rec_tf.legacy_keras" or "bert4rec_tf.legacy_keras" in reached(name, imported), name


def test_another_keras_is_refused_with_the_fix() -> None:
    from bert4rec_tf.legacy_keras import check_keras_2

    check_keras_2(type("Layer", (), {"__module__": "tf_keras.src.engine.base_layer"}))
    with pytest.raises(ImportError, match=r"needs `tf.keras` to be Keras 2.*Received: Keras 3.*TF_USE_LEGACY_KERAS=1"):
        check_keras_2(type("Layer", (), {"__module__": "keras.src.layers.layer"}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "ok"),
    [
        ("import tensorflow as tf; tf.keras.layers", False),
        ("import keras, tensorflow as tf; tf.keras.Model", False),
        ("import bert4rec_tf, os, tensorflow as tf; os.environ['TF_USE_LEGACY_KERAS'] = '0'; tf.keras.layers", False),
        ("import tensorflow as tf, keras", True),
        ("import bert4rec_tf, tensorflow as tf; tf.keras.layers", True),
    ],
)
@pytest.mark.parametrize(
    "module",
    ["bert4rec_tf.model.bert4rec", "bert4rec_tf.training.optimizer", "bert4rec_tf.model.layers"],
)
def test_the_order_of_imports_decides_which_keras_it_is(first: str, ok: bool, module: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    command = [sys.executable, "-c", f"{first}; import {module}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (ran.returncode == 0) == ok, ran.stderr
    assert ok or "Fix: import bert4rec_tf first, or set TF_USE_LEGACY_KERAS=1" in ran.stderr


def test_every_file_has_a_subject() -> None:
    assert not {name for name in modules() if name.split(".")[-1] in {"utils", "helpers", "common"}}


@pytest.mark.parametrize(
    "module",
    ["bert4rec_tf", "bert4rec_tf.config", "bert4rec_tf.evaluation.comparison", "pipelines.build", "tfrecords.manifest"],
)
def test_imports_that_must_stay_light(module: str) -> None:
    code = f"import sys, {module}; sys.exit(sorted(set(sys.modules) & {{'tensorflow', 'tf_keras', 'keras'}}) or 0)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
