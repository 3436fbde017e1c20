"""`mlinfer export FILE.onnx`: foreign classifiers keep their answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lambda_src.inference.download import sha256_of
from mlinfer.model.modelfile import read_model_file
from mlinfer.model.runtime import MAX_IR_VERSION, MAX_OPSET

from ..conftest import Run
from ..foreign import FORMS, colour_model, convolution, labels_file, save, single_node
from ..models import LABELS
from ..pictures import encoded, plain

MlInfer = Callable[..., Run]
Export = Callable[..., Run]
PICTURES = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


@pytest.fixture
def export(mlinfer: MlInfer) -> Export:
    """Return a function that exports a file with labels and pre-processing."""

    def run(path: Path, *flags: str | Path, preprocess: str = "none", labels: tuple[str, ...] = LABELS) -> Run:
        return mlinfer("export", path, "--labels", labels_file(labels=labels), "--preprocess", preprocess, *flags)

    return run


def answers(mlinfer: MlInfer, model: Path, colours: tuple[str, ...] = tuple(PICTURES)) -> list[str]:
    """Return the label that the model gives to an image of each colour."""
    files = [Path(f"{colour}.png") for colour in colours]
    for file in files:
        file.write_bytes(encoded(plain(PICTURES[file.stem], (24, 16)), "PNG"))
    run = mlinfer("predict", "--model", model, "--json", *files)
    assert run.code == 0, run.err
    lines = [json.loads(run.out)] if len(files) == 1 else [json.loads(line) for line in run.out.splitlines()]
    return [line["label"] for line in lines]


def facts(mlinfer: MlInfer, model: Path) -> dict[str, Any]:
    """Return the document of `inspect --json`."""
    result: dict[str, Any] = json.loads(mlinfer("inspect", "--json", model).out)
    return result


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(f"{k}={v}" for k, v in form.items()) or "plain")
def test_every_form_of_classifier_answers(mlinfer: MlInfer, export: Export, form: dict[str, Any]) -> None:
    """Layout, dtype, batch, size and kind of output are detected; the exported file classifies every colour."""
    run = export(colour_model(Path("other.onnx"), **form), "--json")
    assert run.code == 0, run.out + run.err
    made = json.loads(run.out)
    steps = made["preprocess"]["arithmetic"]
    assert ({"layout": "NCHW"} in steps) == (form.get("layout", "NCHW") == "NCHW")
    assert next((step["dtype"] for step in reversed(steps) if "dtype" in step), "uint8") == form.get("dtype", "float32")
    side = 224 if form.get("size") == "S" else 8
    assert [(port["dtype"], port["shape"][1:]) for port in made["inputs"]] == [("uint8", [side, side, 3])]
    assert made["preprocess"]["crop"] == ([224, 224] if form.get("size") == "S" else [8, 8])
    assert made["output"] == ("probabilities" if form.get("ending") in ("softmax", "sigmoid", "divided") else "logits")
    assert made["provenance"]["parity"]["max_abs_diff"] == 0
    assert answers(mlinfer, Path("models/other.onnx")) == list(PICTURES)


def test_one_channel(mlinfer: MlInfer, export: Export) -> None:
    """A model with one channel gets grey images."""
    run = export(colour_model(Path("grey.onnx"), channels=1), labels=("white", "black"))
    assert run.code == 0, run.err
    assert facts(mlinfer, Path("models/grey.onnx"))["preprocess"]["color"] == "L"
    assert answers(mlinfer, Path("models/grey.onnx"), ("white", "black")) == ["white", "black"]


def test_one_of_several_outputs(mlinfer: MlInfer, export: Export) -> None:
    """With several outputs, one must be chosen; the exported file has only that one."""
    model = colour_model(Path("two.onnx"), spare_output=True)
    run = export(model)
    assert run.code == 2
    assert "colour: float" in run.err
    assert "scores: float" in run.err
    assert "--output NAME" in run.err
    assert "probs" in export(model, "--output", "probs").err
    assert export(model, "--output", "scores").code == 0
    assert [port["name"] for port in facts(mlinfer, Path("models/two.onnx"))["outputs"]] == ["scores"]
    assert answers(mlinfer, Path("models/two.onnx")) == list(PICTURES)


def test_external_data_is_folded_in(mlinfer: MlInfer, export: Export) -> None:
    """A model with external weights becomes one file; without them, the error names what is missing."""
    model = convolution(Path("split.onnx"))
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="split.data", size_threshold=0)
    assert export(model).code == 0
    Path("split.data").rename("elsewhere.data")
    assert answers(mlinfer, Path("models/split.onnx")) == list(PICTURES)
    run = export(model, "--out", "again.onnx")
    assert run.code == 3
    assert "split.data" in run.err
    assert not Path("again.onnx").exists()


def test_weights_outside_the_folder_are_not_read(export: Export) -> None:
    """A model whose weights are outside its folder is refused."""
    model = onnx.load(convolution(Path("split.onnx")))
    onnx.save(model, "split.onnx", save_as_external_data=True, location="split.data", size_threshold=0)
    model = onnx.load("split.onnx", load_external_data=False)
    Path("folder").mkdir()
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../split.data"
    onnx.save(model, "folder/split.onnx")
    run = export(Path("folder/split.onnx"))
    assert run.code == 5
    assert "split.data" in run.err


def test_missing_metadata_is_requested(mlinfer: MlInfer) -> None:
    """Missing labels and pre-processing are one error with both flags."""
    run = mlinfer("export", colour_model(Path("other.onnx")))
    assert run.code == 2
    assert "--labels" in run.err
    assert "--preprocess" in run.err
    assert not Path("models").exists()


def test_a_file_of_ours_needs_no_flags(mlinfer: MlInfer, export: Export) -> None:
    """A model file of mlinfer is exported without flags; unchanged, it is the same file."""
    export(colour_model(Path("other.onnx")))
    run = mlinfer("export", "models/other.onnx", "--out", "again.onnx")
    assert run.code == 0, run.err
    assert sha256_of(Path("again.onnx")) == sha256_of(Path("models/other.onnx"))


def test_labels_as_json(mlinfer: MlInfer) -> None:
    """Labels can be a JSON list, with labels that a line cannot hold."""
    Path("labels.json").write_text(json.dumps(["red, or\ncrimson", "green", "blue", "white", "black"]))
    flags = ("--labels", "labels.json", "--preprocess", "none")
    assert mlinfer("export", colour_model(Path("other.onnx")), *flags).code == 0
    assert answers(mlinfer, Path("models/other.onnx"), ("red",)) == ["red, or\ncrimson"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("red\ngreen\n", "5 classes, but there are 2 labels"),
        ("red\n\ngreen\nblue\nwhite\n", "label 1 is empty"),
        ('["red", 2, 3, 4, 5]', "a JSON list of strings"),
        ('["red"', "not valid JSON"),
    ],
)
def test_wrong_labels(mlinfer: MlInfer, content: str, message: str) -> None:
    """Labels that do not fit are refused with the reason, and no file is written."""
    Path("labels.txt").write_text(content)
    model = colour_model(Path("other.onnx"))
    run = mlinfer("export", model, "--labels", "labels.txt", "--preprocess", "none")
    assert run.code == 2
    assert message in run.err
    assert not list(Path().glob("models/*"))


LABEL_FILES: dict[str, bytes] = {
    "index to label": b'{"0": "red", "1": "green", "2": "blue", "3": "white", "4": "black"}',
    "of several lines, unsorted": b'{"4": "black",\n"3": "white", "0": "red",\n"1": "green", "2": "blue"}\n',
    "label to index": b'{"red": 0, "blue": 2, "green": 1, "black": 4, "white": 3}',
    "label to index, of digits": b'{"10": 0, "11": 1, "12": 2, "13": 3, "14": 4}',
    "config.json": b"""{"architectures": ["Net"], "num_labels": 5,
        "id2label": {"0": "red", "1": "green", "2": "blue", "3": "white", "4": "black"}, "label2id": {"red": 0}}""",
    "byte order mark": b"\xef\xbb\xbfred\ngreen\nblue\nwhite\nblack\n",
    "JSON with a byte order mark": b'\xef\xbb\xbf["red", "green", "blue", "white", "black"]',
    "CRLF": b"red\r\ngreen\r\nblue\r\nwhite\r\nblack\r\n",
    "CR": b"red\rgreen\rblue\rwhite\rblack",
    "UTF-16": "red\r\ngreen\r\nblue\r\nwhite\r\nblack\r\n".encode("utf-16"),
}


@pytest.mark.parametrize("content", LABEL_FILES.values(), ids=list(LABEL_FILES))
def test_forms_of_labels(mlinfer: MlInfer, content: bytes) -> None:
    """Each form of labels is read; an object by its indices, not by its order."""
    Path("labels").write_bytes(content)
    run = mlinfer("export", colour_model(Path("other.onnx")), "--labels", "labels", "--preprocess", "none")
    assert run.code == 0, run.err
    expected = ["10", "11", "12", "13", "14"] if b"10" in content else list(LABELS)
    assert list(read_model_file(Path("models/other.onnx")).metadata.labels) == expected  # type: ignore[union-attr]


@pytest.mark.slow
def test_labels_from_a_pipe() -> None:
    """Labels can come from a pipe."""
    model = colour_model(Path("other.onnx"))
    command = [sys.executable, "-m", "mlinfer", "export", str(model), "--labels", "/dev/stdin", "--preprocess", "none"]
    run = subprocess.run(command, input="\n".join(LABELS), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert read_model_file(Path("models/other.onnx")).metadata.labels == LABELS  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ('{"0": "a", "1": "b", "3": "c", "4": "d", "5": "e"}', ["index 2"]),
        ('{"0": "a", "1": "b", "1": "c", "2": "d", "3": "e"}', ["same index: 1"]),
        ('{"a": 0, "b": 1, "c": 1, "d": 2, "e": 3}', ["same index: 1"]),
        ('{"a": "b"}', ["does not map indices to labels"]),
        ("{}", ["does not map indices to labels"]),
        ('{"0": "a", "1": "b"}', ["2 labels", "5 classes"]),
        ("{a: b}", ["not valid JSON"]),
        ("", ["0 labels", "5 classes"]),
    ],
)
def test_wrong_label_objects(mlinfer: MlInfer, content: str, facts: list[str]) -> None:
    """Labels with missing or repeated indices are refused with the numbers."""
    Path("labels.txt").write_text(content)
    run = mlinfer("export", colour_model(Path("other.onnx")), "--labels", "labels.txt", "--preprocess", "none")
    assert run.code == 2
    for fact in facts:
        assert fact in run.err


def test_two_classes_of_one_name(export: Export) -> None:
    """Repeated labels, as in ImageNet, are accepted and reported."""
    run = export(colour_model(Path("other.onnx")), labels=("crane", "dog", "crane", "cat", "cat"))
    assert run.code == 0
    assert "'crane' (0, 2)" in run.err
    assert "'cat' (3, 4)" in run.err


@pytest.mark.parametrize("out", ["labels.txt", "pre.json", "link.txt"])
def test_no_input_is_replaced(mlinfer: MlInfer, out: str) -> None:
    """--out never replaces a file that the export reads, under any name, not even with --force."""
    labels_file()
    Path("link.txt").symlink_to("labels.txt")
    Path("pre.json").write_text('{"resize": 8}')
    before = Path(out).read_bytes()
    model = colour_model(Path("other.onnx"))
    told = ("--labels", "labels.txt", "--preprocess", "pre.json")
    run = mlinfer("export", model, *told, "--out", out, "--force", "--json")
    assert run.code == 2
    assert json.loads(run.out)["error"]["code"] == "would_replace_source"
    assert Path(out).read_bytes() == before


def test_a_link_to_another_folder_stays_a_link(export: Export) -> None:
    """--out writes through a link."""
    Path("store").mkdir()
    Path("link.onnx").symlink_to("store/real.onnx")
    run = export(colour_model(Path("other.onnx")), "--out", "link.onnx")
    assert run.code == 0, run.err
    assert Path("link.onnx").is_symlink()
    assert Path("store/real.onnx").is_file()
    assert len(list(Path("store").iterdir())) == 1


def test_another_file_is_replaced_only_by_force(export: Export) -> None:
    """--out replaces a model file of mlinfer; another file only with --force; a folder never."""
    model = colour_model(Path("other.onnx"))
    theirs = [Path("notes.txt"), colour_model(Path("theirs.onnx"))]
    theirs[0].write_text("My notes.\n")
    for path in theirs:
        before = path.read_bytes()
        run = export(model, "--out", path, "--json")
        assert run.code == 2
        assert json.loads(run.out)["error"]["code"] == "would_replace_file"
        assert path.read_bytes() == before
        assert export(model, "--out", path, "--force").code == 0
        assert export(model, "--out", path).code == 0
    Path("folder").mkdir()
    assert export(model, "--out", "folder", "--force").code == 2


def test_free_size_is_not_assumed_in_silence(export: Export) -> None:
    """If the model accepts any size, a note names the assumed one and how to choose another."""
    assert "224 x 224" in export(colour_model(Path("free.onnx"), size="S")).err
    run = export(colour_model(Path("other.onnx"), size="S"), preprocess='{"crop": [8, 8]}')
    assert run.code == 0
    assert "224 x 224" not in run.err


@pytest.mark.parametrize("form", [{"batch": -1}, {"size": -1}, {"batch": -1, "size": -1}])
def test_negative_dimensions_are_free(mlinfer: MlInfer, export: Export, form: dict[str, Any]) -> None:
    """A dimension of -1, which some exporters write, is free."""
    model = colour_model(Path("other.onnx"), **form)
    shape = facts(mlinfer, model)["inputs"][0]["shape"]
    assert shape[0 if "batch" in form else 2] is None
    assert "?" in mlinfer("inspect", model).out
    assert export(model).code == 0
    assert answers(mlinfer, Path("models/other.onnx")) == list(PICTURES)


def test_whole_numbers_for_the_mean(mlinfer: MlInfer, export: Export) -> None:
    """A mean of whole numbers is shown as numbers, not as a size."""
    assert export(colour_model(Path("other.onnx")), preprocess='{"mean": [1, 2, 3], "std": [2, 1, 1]}').code == 0
    out = mlinfer("inspect", "models/other.onnx").out
    assert "arithmetic: NCHW; float32; / 255; - 1, 2, 3; / 2, 1, 1\n" in out


def test_preprocess_imagenet(export: Export) -> None:
    """`imagenet` is ImageNet's mean and standard deviation, with the crop of seven eighths."""
    made = json.loads(export(colour_model(Path("other.onnx"), size=224), "--json", preprocess="imagenet").out)
    assert made["preprocess"]["resize"] == 256
    assert made["preprocess"]["arithmetic"] == [
        {"layout": "NCHW"},
        {"dtype": "float32"},
        {"divide": 255},
        {"subtract": [0.485, 0.456, 0.406]},
        {"divide": [0.229, 0.224, 0.225]},
    ]


def test_preprocess_json(mlinfer: MlInfer, export: Export) -> None:
    """JSON, or a JSON file, sets single fields; the others come from the graph."""
    Path("pre.json").write_text('{"color": "BGR", "resize": 10, "interpolation": "bicubic"}')
    run = export(colour_model(Path("other.onnx")), "--json", preprocess="pre.json")
    made = json.loads(run.out)["preprocess"]
    assert (made["resize"], made["interpolation"], made["crop"]) == (10, "bicubic", [8, 8])
    assert {"channels": "BGR"} in made["arithmetic"]
    assert answers(mlinfer, Path("models/other.onnx"), ("red", "blue")) == ["blue", "red"]


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ('{"crop": [9, 9]}', "height of 9 pixels, but the model requires 8"),
        ('{"layout": "NHWC"}', "layout to 'NHWC', but the model requires NCHW"),
        ('{"means": [0, 0, 0]}', "unknown keys: means"),
        ('{"mean": [0]}', "preprocess.mean"),
        ('{"crop": 8}', "[height, width]"),
        ('{"resize": "8"}', "preprocess.resize"),
        ('{"mean": 3}', "is invalid"),
        ('{"resize"', "not valid JSON"),
        ("nowhere.json", "nowhere.json"),
    ],
)
def test_wrong_preprocess(export: Export, preprocess: str, message: str) -> None:
    """Pre-processing that does not fit the graph, or is not known, is refused."""
    run = export(colour_model(Path("other.onnx")), preprocess=preprocess)
    assert run.code in (2, 3)
    assert message in run.err


def test_output_kind(export: Export) -> None:
    """--output-kind overrides the detected kind, unless the model clearly contradicts it."""
    model = colour_model(Path("other.onnx"), ending="softmax")
    assert json.loads(export(model, "--output-kind", "logits", "--json").out)["output"] == "logits"
    run = export(colour_model(Path("raw.onnx")), "--output-kind", "probabilities")
    assert run.code == 2
    assert "probabilities" in run.err
    assert "odds" in export(model, "--output-kind", "odds").err


def not_a_picture(path: Path) -> Path:
    """Write a graph that takes text."""
    return single_node(path, "Identity", ["N", 3, 8, 8], TensorProto.STRING)


def a_map(path: Path) -> Path:
    """Write a graph that answers with a picture."""
    return single_node(path, "Relu", ["N", 3, 8, 8])


def a_number(path: Path) -> Path:
    """Write a graph that answers with one number."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=0)]
    nodes += [helper.make_node("Unsqueeze", ["m", "one"], ["y"])]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])]
    return save(path, nodes, ports, outputs, {"one": np.array([1])})


NO_CLASSIFIERS: list[tuple[Callable[[Path], Path], str]] = [
    (not_a_picture, "its input x0 is string N x 3 x 8 x 8"),
    (a_map, "shape 1 x 3 x 8 x 8"),
    (a_number, "only one score"),
    (lambda path: single_node(path, "Relu", ["N", 10]), "four dimensions"),
    (lambda path: single_node(path, "Relu", ["N", 5, 8, 8]), "1 or 3 channels"),
    (lambda path: single_node(path, "Add", ["N", 3, 8, 8], inputs=2), "2 inputs (x0, x1)"),
    (lambda path: single_node(path, "ArgMax", ["N", 3, 8, 8]), "is int64"),
]


@pytest.mark.parametrize(("make", "message"), NO_CLASSIFIERS)
def test_a_model_that_is_not_a_classifier(export: Export, make: Callable[[Path], Path], message: str) -> None:
    """A model that is not an image classifier is refused with the reason, and no file is written."""
    run = export(make(Path("other.onnx")))
    assert run.code == 5
    assert message in run.err
    assert "Traceback" not in run.err
    assert not list(Path().glob("models/*"))


def test_an_ambiguous_layout(mlinfer: MlInfer, export: Export) -> None:
    """If the graph does not fix the channels, the layout must be given."""
    model = colour_model(Path("open.onnx"), channels="C", size="S")
    run = export(model)
    assert run.code == 2
    assert '"layout"' in run.err
    assert export(model, preprocess='{"layout": "NCHW", "color": "RGB", "crop": [8, 8]}').code == 0
    assert answers(mlinfer, Path("models/open.onnx")) == list(PICTURES)


@pytest.mark.parametrize(
    ("form", "message"),
    [({"ir_version": MAX_IR_VERSION + 1}, "IR version"), ({"opset": MAX_OPSET + 1}, "opset")],
)
def test_too_new_for_the_image(mlinfer: MlInfer, export: Export, form: dict[str, int], message: str) -> None:
    """A file that the image's onnxruntime cannot load is refused; `inspect` says so without loading it."""
    model = colour_model(Path("new.onnx"), **form)  # type: ignore[arg-type]
    run = export(model)
    assert run.code == 5
    assert message in run.err
    image = facts(mlinfer, model)["image"]
    assert image["takes_it"] is False
    assert message in image["reason"]


def test_invalid_graph(export: Export) -> None:
    """A file that the ONNX checker refuses ends with exit code 5 and its reason."""
    model = onnx.load(colour_model(Path("other.onnx")))
    del model.graph.node[0]
    onnx.save(model, "other.onnx")
    run = export(Path("other.onnx"))
    assert run.code == 5
    assert "not valid ONNX" in run.err


def test_a_different_answer_is_not_exported(export: Export) -> None:
    """A model that is not deterministic fails the verification, and no file is written."""
    run = export(colour_model(Path("other.onnx"), noise=0.5))
    assert run.code == 5
    assert "source" in run.err
    assert not list(Path().glob("models/*"))


@pytest.mark.parametrize(("file", "code"), [("nowhere.onnx", 3), ("text.onnx", 2)])
def test_a_file_that_is_not_onnx(export: Export, file: str, code: int) -> None:
    """A missing file, or one that is not ONNX, is an error."""
    Path("text.onnx").write_text("I am no model.\n")
    run = export(Path(file))
    assert run.code == code
    assert "Traceback" not in run.err


def test_names(export: Export) -> None:
    """The name is the file's, made safe, or --name; --out sets the path."""
    Path("my model (2).onnx").write_bytes(colour_model(Path("other.onnx")).read_bytes())
    assert json.loads(export(Path("my model (2).onnx"), "--json").out)["name"] == "my-model-2"
    assert json.loads(export(Path("other.onnx"), "--json", "--name", "v1.2").out)["file"] == "models/v1.2.onnx"
    assert json.loads(export(Path("other.onnx"), "--json", "--out", "deep/er/m.onnx").out)["file"] == "deep/er/m.onnx"
    assert export(Path("other.onnx"), "--name", "../v1").code == 2


def test_weights_belong_to_an_architecture(export: Export) -> None:
    """--weights with a file is wrong usage."""
    assert export(colour_model(Path("other.onnx")), "--weights", "random").code == 2


def test_no_room(export: Export) -> None:
    """A folder that cannot be written ends with exit code 3."""
    Path("models").write_text("I am a file, not a folder.\n")
    run = export(colour_model(Path("other.onnx")))
    assert run.code == 3
    assert "cannot write" in run.err


def test_the_source_is_never_replaced(export: Export) -> None:
    """--out never replaces the source, not even with --force."""
    Path("models").mkdir()
    model = colour_model(Path("models/two.onnx"))
    before = model.read_bytes()
    for flags in ([], ["--out", model], ["--out", model, "--force"]):
        run = export(model, *flags, "--json")
        assert run.code == 2
        assert json.loads(run.out)["error"]["code"] == "would_replace_source"
        assert model.read_bytes() == before


def test_grey_for_a_model_of_three_channels(export: Export) -> None:
    """Pre-processing that does not fit the channels is wrong usage."""
    run = export(colour_model(Path("net.onnx")), preprocess='{"color": "L"}')
    assert run.code == 2
    assert "three channels" in run.err


def test_an_unknown_preprocess(export: Export) -> None:
    """A misspelt --preprocess is an error that lists the valid values."""
    run = export(colour_model(Path("net.onnx")), preprocess="imagnet")
    assert run.code == 2
    assert all(word in run.err for word in ("'imagnet'", "imagenet", "none", "JSON"))


@pytest.mark.usefixtures("cloud")
@pytest.mark.parametrize("provenance", ["5", "[]", "null"])
def test_provenance_of_another_shape(mlinfer: MlInfer, tiny_model: Path, provenance: str) -> None:
    """Invalid metadata from another program is an unusable model, not an internal error."""
    model = onnx.load(tiny_model)
    next(p for p in model.metadata_props if p.key == "mlinfer.provenance").value = provenance
    onnx.save(model, "odd.onnx")
    for command in ("inspect", "upload"):
        assert mlinfer(command, "odd.onnx", *(["--bucket", "some-bucket"] if command == "upload" else [])).code == 2
    Path("red.png").write_bytes(encoded(plain((255, 0, 0)), "PNG"))
    run = mlinfer("predict", "red.png", "--model", "odd.onnx")
    assert run.code == 2
    assert "mlinfer.provenance" in run.err


def test_provenance_is_shown_whatever_it_holds(mlinfer: MlInfer, tiny_model: Path) -> None:
    """`inspect` shows any provenance that another program wrote."""
    model = onnx.load(tiny_model)
    next(p for p in model.metadata_props if p.key == "mlinfer.provenance").value = '{"runs": [{"seed": 7}, 8]}'
    onnx.save(model, "odd.onnx")
    run = mlinfer("inspect", "odd.onnx")
    assert run.code == 0
    assert "seed: 7" in run.out
