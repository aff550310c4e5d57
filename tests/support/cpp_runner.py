"""Builds and runs cpp/run_saved_model.cc, which loads and runs a SavedModel in C++ as TF Serving does."""

import pathlib
import shutil
import subprocess
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

SOURCE = pathlib.Path(__file__).parent / "cpp" / "run_saved_model.cc"
Request = tuple[str, dict[str, object]]  # signature, inputs
Answer = dict[str, np.ndarray] | str  # outputs, or the error


def compiler() -> str | None:
    """The C++ compiler, or None."""
    return shutil.which("g++")


def build(directory: pathlib.Path) -> pathlib.Path:
    """Compiles the program against the libraries and headers of the installed TensorFlow."""
    program, libraries = directory / "run_saved_model", tf.sysconfig.get_lib()
    flags = [flag for flag in tf.sysconfig.get_compile_flags() if not flag.startswith("--std")]
    command = [str(compiler()), "-O1", "-std=c++17", *flags, str(SOURCE), "-o", str(program), f"-L{libraries}"]
    command += [
        "-Wl,--no-as-needed",
        "-l:libtensorflow_cc.so.2",
        "-l:libtensorflow_framework.so.2",
        f"-Wl,-rpath,{libraries}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return program


def run(
    program: pathlib.Path, version: pathlib.Path, requests: Iterable[Request], repeats: int = 0, threads: int = 1
) -> tuple[list[Answer], list[list[float]]]:
    """The answers, and, with `repeats`, the microseconds of each repeat of each request."""
    requests_file, answers_file = program.with_name("requests"), program.with_name("answers")
    with tf.io.TFRecordWriter(str(requests_file)) as writer:
        for signature, inputs in requests:
            request = meta_graph_pb2.SignatureDef(method_name=signature)
            for name, value in inputs.items():
                request.defaults[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(request.SerializeToString())
    command = [str(program), str(version), str(requests_file), str(answers_file)]
    command += [str(repeats), str(threads)] if repeats else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answers: list[Answer] = []
    for record in tf.data.TFRecordDataset(str(answers_file)):
        answer = meta_graph_pb2.SignatureDef.FromString(record.numpy())
        outputs = {name: tf.make_ndarray(value) for name, value in answer.defaults.items()}
        answers.append(answer.method_name or outputs)
    return answers, [[float(value) for value in line.split()] for line in done.stdout.splitlines()]
