"""Send mutated models through `mlinfer export`: damaged bytes, and graphs with inconsistent parts.

    python tests/fuzz_export.py --cases 10000 --seed 0      # a summary; exit code 1 at a violation
    python tests/fuzz_export.py --seed 0 --only 4711        # that case again; its files stay in the folder that is named

A case depends only on the seed and its number. Each runs in its own process, forked from one that has imported everything,
so that a crash of onnxruntime or onnx ends only that case. Each must end with a verified file (exit code 0), wrong usage (2),
an unusable model (5) or missing weights (3), never with an internal error.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import shape_inference as _  # noqa: F401  # slow to import, so before the fork

from mlinfer.cli import main, register
from mlinfer.model import export as _export  # noqa: F401  # before the fork
from mlinfer.model.modelfile import read_model_file
from mlinfer.model.samples import draw
from tests import foreign
from tests.pictures import encoded, plain

TIMEOUT_S = 60.0
MEMORY = 4 * 2**30
SIZES = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 224, 1000, 2**16, 2**31 - 1, 2**31, 2**40, 2**63 - 1)


def words(text: str) -> list[str]:
    """Return the words of a text: as lists, those below would take a line for each."""
    return text.split()


OPERATORS = words(
    "Relu Identity Flatten Softmax Sigmoid Add Mul Div MatMul Gemm Conv MaxPool GlobalAveragePool Reshape "
    "Transpose Squeeze Unsqueeze ReduceMean ReduceSum Cast Concat Split Slice Gather Shape Expand Tile "
    "BatchNormalization Dropout LayerNormalization Resize ArgMax If Loop Scan Constant QuantizeLinear "
    "DequantizeLinear TopK NonZero Where Pad ConstantOfShape Range Einsum GatherND ScatterND LSTM FusedConv "
    "NoSuchOperator"
)
UNARY = words(
    "Relu Identity Sigmoid Softmax LogSoftmax Exp Neg Abs Sqrt Log Erf Tanh Floor Ceil Round Sin Acos Atanh "
    "Reciprocal Sign HardSigmoid HardSwish Softplus Softsign Elu Selu Celu LeakyRelu Dropout Flatten "
    "GlobalAveragePool GlobalMaxPool Squeeze Transpose Hardmax Mish IsNaN Not Det Size Shape "
    "InstanceNormalization MeanVarianceNormalization"
)
BINARY = words(
    "Add Sub Mul Div Pow MatMul Gemm Conv ConvTranspose PRelu Max Min Mean Sum Gather Mod Reshape Expand Tile"
)
TYPES = (*range(24), 99, -1)
TEXTS = ("", "image", "scores", "N", "x" * 1000, "../up", "/etc/hostname", "\u00e9", "a b", "#image", "mlinfer.schema")


class ViolationError(Exception):
    """An exit that the contract does not allow."""


# The models that are mutated


@cache
def models() -> tuple[bytes, ...]:
    """Return small classifiers of many forms, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        made = [foreign.colour_model(path, **form).read_bytes() for form in foreign.FORMS]
        made += [foreign.convolution(path, stride=stride).read_bytes() for stride in (1, 2)]
        made += [make(path).read_bytes() for make in foreign.GRAPHS.values()]
    return tuple(made)


@cache
def labelled() -> tuple[bytes, ...]:
    """Return model files of mlinfer, as bytes, with metadata to damage."""
    from tests.models import mean_colour

    with tempfile.TemporaryDirectory() as folder:
        return (mean_colour(Path(folder, "ours.onnx")).read_bytes(), (ROOT / "mlinfer" / "starter.onnx").read_bytes())


# Mutations. Each changes the model in place.

Mutation = Callable[[random.Random, ModelProto], None]


def some(chance: random.Random, items: Any) -> Any:
    """Return one of the items. Raises IndexError for an empty list, which ends the mutation."""
    return items[chance.randrange(len(items))] if len(items) else [][0]


def graphs(model: ModelProto) -> list[Any]:
    """Return the main graph and those inside nodes."""
    found = [model.graph]
    for graph in found:
        found += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return found


def any_name(chance: random.Random, graph: Any) -> str:
    """Return a name of the graph, or any other text."""
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    names += [tensor.name for tensor in graph.initializer] + [value.name for value in graph.input] + list(TEXTS)
    return str(some(chance, names))


def change_dimension(chance: random.Random, model: ModelProto) -> None:
    """Change a dimension of an input, an output or a known shape."""
    graph = some(chance, graphs(model))
    shape = some(chance, [*graph.input, *graph.output, *graph.value_info]).type.tensor_type.shape
    what = chance.randrange(4)
    if what == 0:
        del shape.dim[:]
    elif what == 1:
        shape.dim.add(dim_value=some(chance, SIZES))
    elif what == 2:
        some(chance, shape.dim).dim_param = some(chance, TEXTS)
    else:
        some(chance, shape.dim).dim_value = some(chance, SIZES)


def change_type(chance: random.Random, model: ModelProto) -> None:
    """Give an input or output another type, or none."""
    value = some(chance, [*model.graph.input, *model.graph.output])
    if chance.random() < 0.2:
        value.ClearField("type")
    elif chance.random() < 0.2:
        value.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    else:
        value.type.tensor_type.elem_type = some(chance, TYPES)


def change_weight(chance: random.Random, model: ModelProto) -> None:
    """Damage a weight: its dimensions, its type, its values, its place."""
    tensor = some(chance, some(chance, graphs(model)).initializer)
    what = chance.randrange(9)
    if what == 0:
        tensor.dims[chance.randrange(len(tensor.dims))] = some(chance, SIZES)
    elif what == 1:
        tensor.data_type = some(chance, TYPES)
    elif what == 2:
        tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data) + 1)]
    elif what == 3:
        tensor.ClearField("raw_data")
    elif what == 4:
        values = numpy_helper.to_array(tensor).copy()
        bad = some(chance, [np.nan, np.inf, 0, 1e38, -1])
        values.reshape(-1)[chance.randrange(values.size)] = bad
        tensor.raw_data = values.tobytes()
    elif what == 5:
        del tensor.dims[:]
    elif what == 6:
        tensor.float_data.extend([1.0] * chance.randrange(1, 9))
    elif what == 7:
        tensor.data_location = TensorProto.EXTERNAL
        for key in ("location", "offset", "length", "checksum", "path"):
            if chance.random() < 0.6:
                value = some(chance, [*TEXTS, "model.onnx", "link", "weights", "0", "-1", "1000000", "x"])
                tensor.external_data.add(key=key, value=value)
    else:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(some(chance, ["f2", "f8", "i8", "u1"])), tensor.name))  # fmt: skip


def change_weights(chance: random.Random, model: ModelProto) -> None:
    """Remove, repeat or rename a weight."""
    weights = some(chance, graphs(model)).initializer
    i = chance.randrange(len(weights))
    what = chance.randrange(3)
    if what == 0:
        del weights[i]
    elif what == 1:
        weights.add().CopyFrom(weights[i])
    else:
        weights[i].name = any_name(chance, model.graph)


def change_node(chance: random.Random, model: ModelProto) -> None:
    """Change what a node does, reads or writes."""
    graph = some(chance, graphs(model))
    node: NodeProto = some(chance, graph.node)
    what = chance.randrange(7)
    if what == 0:
        node.op_type = some(chance, OPERATORS)
    elif what == 1:
        node.input[chance.randrange(len(node.input))] = any_name(chance, graph)
    elif what == 2:
        node.output[chance.randrange(len(node.output))] = any_name(chance, graph)
    elif what == 3:
        node.domain = some(chance, ["com.microsoft", "com.microsoft.nchwc", "ai.onnx.ml", "nowhere", ""])
    elif what == 4:
        node.input.append(any_name(chance, graph))
    elif what == 5:
        node.output.append(some(chance, ["extra", "", any_name(chance, graph)]))
    else:
        del node.input[chance.randrange(len(node.input)) :]


def change_nodes(chance: random.Random, model: ModelProto) -> None:
    """Remove, repeat, move or add a node."""
    nodes = some(chance, graphs(model)).node
    i = chance.randrange(len(nodes))
    what = chance.randrange(4)
    if what == 0:
        del nodes[i]
    elif what == 1:
        nodes.add().CopyFrom(nodes[i])
    elif what == 2:
        moved = NodeProto()
        moved.CopyFrom(nodes[i])
        del nodes[i]
        nodes.insert(chance.randrange(len(nodes) + 1), moved)
    else:
        taken = nodes[i].output[0]
        nodes[i].output[0] = "between"
        nodes.insert(i + 1, helper.make_node(some(chance, OPERATORS), ["between"], [taken]))


def change_attribute(chance: random.Random, model: ModelProto) -> None:
    """Change, remove or add an attribute."""
    node: NodeProto = some(chance, some(chance, graphs(model)).node)
    if chance.random() < 0.3 or not node.attribute:
        name = some(
            chance, ["axis", "axes", "alpha", "pads", "strides", "group", "to", "transB", "kernel_shape", "perm"]
        )
        value = some(chance, [some(chance, SIZES), [some(chance, SIZES)] * 2, 1e30, "text"])
        node.attribute.append(helper.make_attribute(name, value))
        return
    i = chance.randrange(len(node.attribute))
    attribute: AttributeProto = node.attribute[i]
    if chance.random() < 0.2:
        del node.attribute[i]
    elif attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = some(chance, SIZES)
    elif chance.random() < 0.2:
        attribute.type = chance.randrange(0, 15)  # type: ignore[assignment]
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = some(chance, [0.0, -1.0, float("nan"), float("inf"), 1e30])
    elif attribute.type == AttributeProto.INT:
        attribute.i = some(chance, SIZES)
    else:
        attribute.name = some(chance, TEXTS)


def change_ports(chance: random.Random, model: ModelProto) -> None:
    """Remove, add or rename an input or an output."""
    graph = model.graph
    ports = some(chance, [graph.input, graph.output])
    what = chance.randrange(4)
    if what == 0:
        del ports[chance.randrange(len(ports))]
    elif what == 1:
        ports.add().CopyFrom(helper.make_tensor_value_info(any_name(chance, graph), TensorProto.FLOAT, ["N", 3, 8, 8]))
    elif what == 2:
        ports.add().CopyFrom(some(chance, ports))
    else:
        some(chance, ports).name = any_name(chance, graph)


def change_model(chance: random.Random, model: ModelProto) -> None:
    """Change versions, operator sets and metadata."""
    what = chance.randrange(7)
    if what == 0:
        model.ir_version = some(chance, [0, 1, 3, 4, 9, 13, 99, 2**31])
    elif what == 1:
        some(chance, model.opset_import).version = some(chance, [0, 1, 6, 7, 9, 11, 13, 18, 21, 26, 99, -1])
    elif what == 2:
        model.opset_import.add(domain=some(chance, ["", "ai.onnx", "com.microsoft", "nowhere"]), version=1)
    elif what == 3:
        del model.opset_import[:]
    elif what == 4:
        model.metadata_props.add(
            key=some(chance, ["mlinfer.schema", "mlinfer.labels", "a", ""]), value=some(chance, TEXTS)
        )
    elif what == 5:
        model.graph.ClearField(some(chance, ["node", "initializer", "input", "output", "name", "value_info"]))
    else:
        function = model.functions.add(name="Relu", domain=some(chance, ["", "own"]), input=["x"], output=["y"])
        function.node.append(helper.make_node(some(chance, OPERATORS), ["x"], ["y"]))


def change_metadata(chance: random.Random, model: ModelProto) -> None:
    """Damage the metadata of a file of mlinfer."""
    entry = some(chance, model.metadata_props)
    what = chance.randrange(3)
    if what == 0:
        entry.value = some(chance, [*TEXTS, "[]", "{}", "null", "[1]", '["a"]', "1e999", "[" * 10000, '{"resize": 8}'])
    elif what == 1:
        entry.key = some(chance, TEXTS)
    else:
        cut = chance.randrange(len(entry.value) + 1)
        entry.value = entry.value[:cut] + entry.value[cut + 1 :]


# Mutations that a checker mostly lets pass, so that onnxruntime meets them


def insert_unary(chance: random.Random, model: ModelProto) -> None:
    """Put an operator of one input between two nodes."""
    between(chance, model, helper.make_node(some(chance, UNARY), ["before"], ["after"]))


def insert_sized(chance: random.Random, model: ModelProto) -> None:
    """Put an operator that takes sizes between two nodes, with sizes that may be large."""
    sizes = [
        some(chance, (-1, 0, 1, 1, 2, 3, 5, 64, 2**16, 2**31, 2**40)) for _size in range(some(chance, (1, 2, 4, 8)))
    ]
    operator = some(
        chance, ("Reshape", "Expand", "Tile", "Pad", "ReduceSum", "Squeeze", "Unsqueeze", "Gather", "Split")
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
    between(chance, model, helper.make_node(operator, ["before", "sizes"], ["after"]))


def insert_heavy(chance: random.Random, model: ModelProto) -> None:
    """Put an operator with odd attributes between two nodes."""
    small = [some(chance, (-3, -1, 0, 1, 2, 3, 9, 255)) for _value in range(4)]
    made: tuple[tuple[str, dict[str, Any]], ...] = (
        ("MaxPool", {"kernel_shape": small[:2], "strides": small[2:]}),
        ("AveragePool", {"kernel_shape": small[:2], "pads": small}),
        ("LpPool", {"kernel_shape": small[:2], "p": small[0]}),
        ("Transpose", {"perm": small}),
        ("Transpose", {"perm": sorted(small)[: small[0]]}),
        ("DepthToSpace", {"blocksize": small[0]}),
        ("SpaceToDepth", {"blocksize": small[0]}),
        ("LRN", {"size": small[0]}),
        ("Softmax", {"axis": small[0]}),
        ("Flatten", {"axis": small[0]}),
        ("ArgMax", {"axis": small[0]}),
        ("Cast", {"to": some(chance, TYPES)}),
        ("EyeLike", {"k": small[0]}),
        ("Concat", {"axis": small[0]}),
        ("ReduceMax", {"axes": small[:2]}),
        ("Einsum", {"equation": some(chance, ("ij->ji", "ii", "ij,jk->ik", "...", "i", "->"))}),
        ("NonZero", {}),
        ("RandomNormalLike", {}),
        ("ConstantOfShape", {}),
        ("Shape", {}),
        ("Size", {}),
        ("GlobalLpPool", {"p": small[0]}),
        ("QuickGelu", {"domain": "com.microsoft"}),
        ("Gelu", {"domain": "com.microsoft"}),
        ("FusedConv", {"domain": "com.microsoft"}),
    )
    operator, attributes = some(chance, made)
    between(chance, model, helper.make_node(operator, ["before"], ["after"], **attributes))
    if attributes.get("domain"):
        model.opset_import.add(domain="com.microsoft", version=1)


def between(chance: random.Random, model: ModelProto, node: NodeProto) -> None:
    """Put a node behind an output of another, or before the first, and forget the shapes that were known."""
    nodes = model.graph.node
    i = chance.randrange(-1, len(nodes))
    if i >= 0:
        name = str(some(chance, nodes[i].output))
        nodes[i].output[[*nodes[i].output].index(name)] = "inserted"
        node.input[0], node.output[0] = "inserted", name
    else:
        name = model.graph.input[0].name
        for other in nodes:
            for k, read in enumerate(other.input):
                if read == name:
                    other.input[k] = "inserted"
        node.input[0], node.output[0] = name, "inserted"
    nodes.insert(i + 1, node)
    del model.graph.value_info[:]
    forget_shapes(model)


def forget_shapes(model: ModelProto) -> None:
    """Remove the output dimensions, so that they fit whatever comes before."""
    for value in model.graph.output:
        for dimension in value.type.tensor_type.shape.dim:
            dimension.Clear()


def change_values(chance: random.Random, model: ModelProto) -> None:
    """Give a weight other values of the same type, or another shape with as many values as it asks for."""
    tensor = some(chance, some(chance, graphs(model)).initializer)
    values = numpy_helper.to_array(tensor)
    if chance.random() < 0.5:
        bad = some(chance, [np.nan, np.inf, -np.inf, 0, 1e30, -1e30, 1e-40, -1, 2**31, 7])
        with np.errstate(all="ignore"):
            changed = values.copy()
            changed.reshape(-1)[:: chance.randrange(1, values.size + 1)] = np.float64(bad).astype(values.dtype)
    else:
        shape = [some(chance, (0, 1, 2, 3, 5, 8)) for _size in range(chance.randrange(5))]
        changed = np.resize(values, shape).astype(values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))


def swap_operator(chance: random.Random, model: ModelProto) -> None:
    """Replace a node's operator with another one of as many inputs."""
    node: NodeProto = some(chance, some(chance, graphs(model)).node)
    node.op_type = some(chance, UNARY if len(node.input) == 1 else BINARY)
    del node.attribute[:]
    forget_shapes(model)


def change_numbers(chance: random.Random, model: ModelProto) -> None:
    """Change the whole numbers of an attribute a little."""
    holders = [node for graph in graphs(model) for node in graph.node if any(a.ints or a.i for a in node.attribute)]
    attribute = some(chance, [a for a in some(chance, holders).attribute if a.ints or a.i])
    if attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] += some(chance, (-3, -2, -1, 1, 2, 9))
    else:
        attribute.i += some(chance, (-2, -1, 1, 2))
    forget_shapes(model)


def free_shapes(chance: random.Random, model: ModelProto) -> None:
    """Leave dimensions of inputs and outputs open, or fix them."""
    for value in [*model.graph.input, *model.graph.output]:
        for dimension in value.type.tensor_type.shape.dim:
            if chance.random() < 0.3:
                dimension.dim_value = some(chance, (-1, 1, 1, 2, 3, 4, 8, 16, 224))


MUTATIONS: tuple[Mutation, ...] = (
    insert_unary,
    insert_sized,
    insert_heavy,
    change_values,
    swap_operator,
    change_numbers,
    free_shapes,
    insert_unary,
    insert_sized,
    insert_heavy,
    change_values,
    change_dimension,
    change_type,
    change_weight,
    change_weights,
    change_node,
    change_nodes,
    change_attribute,
    change_ports,
    change_model,
    change_metadata,
)


def mutated(chance: random.Random, content: bytes) -> bytes:
    """Return the model with one to three changes of its parts, or of its bytes."""
    if chance.random() < 0.08:
        return damaged(chance, content)
    model = onnx.load_from_string(content)
    done = 0
    for _attempt in range(50):
        try:
            some(chance, MUTATIONS)(chance, model)
        except (IndexError, ValueError, TypeError, OverflowError):
            continue  # there is nothing of the kind in this model
        done += 1
        if done >= some(chance, (1, 1, 1, 1, 2, 3)):
            break
    content = model.SerializeToString()
    return damaged(chance, content) if chance.random() < 0.05 else content


def damaged(chance: random.Random, content: bytes) -> bytes:
    """Return the bytes with some changed, cut off, left out or repeated."""
    data = bytearray(content)
    for _change in range(some(chance, (1, 1, 2, 8))):
        at = chance.randrange(len(data))
        what = chance.randrange(5)
        if what == 0:
            data[at] = chance.randrange(256)
        elif what == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif what == 2:
            del data[at : at + chance.randrange(1, 20)]
        elif what == 3:
            data[at:at] = data[max(0, at - chance.randrange(1, 40)) : at]
        elif len(data) > 50:
            del data[max(50, at) :]
    return bytes(data)


# One case


def write_case(chance: random.Random) -> list[str]:
    """Write the files of a case into this folder, and return the command that exports the model."""
    ours = chance.random() < 0.1
    Path("model.onnx").write_bytes(mutated(chance, some(chance, labelled() if ours else models())))
    Path("weights").write_bytes(bytes(64))
    Path("link").symlink_to("/etc/hostname")
    count = 5 if chance.random() < 0.9 else some(chance, (0, 1, 2, 10))
    Path("labels.txt").write_text("".join(f"label {i}\n" for i in range(count)))
    command = ["export", "model.onnx", "--out", "made.onnx", "--json"]
    if not ours or chance.random() < 0.2:
        told = some(chance, ["none"] * 6 + ["imagenet", '{"crop": [8, 8]}', '{"layout": "NCHW", "color": "RGB"}'])
        command += ["--labels", "labels.txt", "--preprocess", told]
    if chance.random() < 0.15:
        command += ["--output", some(chance, ["scores", "colour", "image", ""])]
    if chance.random() < 0.1:
        command += ["--output-kind", some(chance, ["logits", "probabilities"])]
    if chance.random() < 0.08:
        Path("pictures").mkdir()
        for i, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
            Path("pictures", f"{i}.png").write_bytes(encoded(plain(colour, (24, 16)), "PNG"))
        command += ["--quantize", "int8", "--calibration", "pictures", "--allow-drop"]
    return command


def run_case(seed: int, number: int, folder: Path) -> str:
    """Run a case in a new process, and return how it ended. Raises ViolationError."""
    process = os.fork()
    if process == 0:
        _child(seed, number, folder)
    ended = time.monotonic() + TIMEOUT_S
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            break
        if time.monotonic() > ended:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise ViolationError(f"no end after {TIMEOUT_S:g} s")
        time.sleep(0.002)
    return _verdict(status, folder)


def _child(seed: int, number: int, folder: Path) -> None:
    code = 99
    try:
        os.chdir(folder)
        command = write_case(random.Random(f"{seed}:{number}"))
        Path("command.json").write_text(json.dumps(command))
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = main(command)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _verdict(status: int, folder: Path) -> str:
    err = (folder / "err").read_text(errors="replace") if (folder / "err").exists() else ""
    if os.WIFSIGNALED(status):
        raise ViolationError(f"ended by signal {os.WTERMSIG(status)}: {err[-500:]}")
    code, made = os.waitstatus_to_exitcode(status), folder / "made.onnx"
    out = (folder / "out").read_text(errors="replace") if (folder / "out").exists() else ""
    if code == 0:
        metadata = read_model_file(made).metadata
        parity = metadata.provenance["parity"] if metadata else {}
        if not parity.get("max_relative_diff", 1) <= parity.get("tolerance", 0):
            raise ViolationError(f"exported without parity: {parity}")
        return "0 exported"
    if made.exists():
        raise ViolationError(f"exit code {code}, and a file")
    if code not in (2, 3, 5):
        raise ViolationError(f"exit code {code}: {err[-1500:]}")
    try:
        error = json.loads(out)["error"]
    except (ValueError, KeyError) as wrong:
        raise ViolationError(f"exit code {code} without an error document: {out[-300:]} {err[-300:]}") from wrong
    if code == 3 and error["code"] != "weights_missing":
        raise ViolationError(f"exit code 3 for {error}")
    if "Traceback" in err or not error["message"].strip():
        raise ViolationError(f"exit code {code} with {err[-1500:]}")
    return f"{code} {error['code']}"


def fuzz(seed: int, numbers: range, root: Path) -> tuple[Counter[str], list[str]]:
    """Run the cases; return the count of each outcome, and the violations. A violation's folder is kept."""
    ends: Counter[str] = Counter()
    violations = []
    for number in numbers:
        folder = root / f"case-{number}"
        folder.mkdir()
        try:
            ends[run_case(seed, number, folder)] += 1
            shutil.rmtree(folder)
        except ViolationError as error:
            ends["violation"] += 1
            violations.append(f"case {number} ({folder}): {error}")
            sys.stdout.write(f"{violations[-1]}\n")
            sys.stdout.flush()
    return ends, violations


def run(arguments: list[str]) -> int:
    """Run the fuzz and print its counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--only", type=int)
    options = parser.parse_args(arguments)
    onnxruntime.set_default_logger_severity(4)
    register("export")
    models()
    labelled()
    draw()  # kept, so that no case draws them again
    root = Path(tempfile.mkdtemp(prefix="fuzz-export-"))
    if options.only is not None:
        folder = root / f"case-{options.only}"
        folder.mkdir()
        try:
            sys.stdout.write(f"{folder} {run_case(options.seed, options.only, folder)}\n")
        except ViolationError as error:
            sys.stdout.write(f"{folder} {error}\n")
            return 1
        return 0
    numbers = range(options.start, options.start + options.cases)
    ends, violations = fuzz(options.seed, numbers, root)
    sys.stdout.write(f"{options.cases} cases from {options.start} of seed {options.seed}:\n")
    sys.stdout.writelines(f"{count:6}  {end}\n" for end, count in sorted(ends.items()))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
