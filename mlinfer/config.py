"""The configuration: options override `MLINFER_*` environment variables, which override `mlinfer.toml`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lambda_src.settings import MAX_PIXELS, MAX_THREADS

from .errors import MissingError, UsageError
from .files import read_text

FILE_NAME = "mlinfer.toml"
STARTER = "starter"  # the built-in model; ./starter is a file with this name
COMMAND_LINE = "the command line"
TargetName = Literal["embedded", "local", "aws"]
TARGETS = get_args(TargetName)
ARCHITECTURES = ("x86_64", "arm64")
BUILDERS = ("auto", "docker", "direct")
MODEL_SOURCES = ("s3", "image")
# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
LOG_DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)
URLS = ("none", "iam", "public")
BASE_IMAGE = "public.ecr.aws/lambda/python:3.13"
ARCHIVE = "oci-archive:"  # begins the name of a base image that is a file
# Each value is a pattern and its meaning. The project name must be valid in a tag, an image name and a function name.
# Safe characters of S3 keys: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_PROJECT = (  # ECR allows only single hyphens, between other characters
    "(?=.{1,32}$)[a-z0-9]+(?:-[a-z0-9]+)*",
    "up to 32 lower-case letters and digits, separated by single hyphens",
)
_BUCKET = ("[A-Za-z0-9][A-Za-z0-9._-]{2,62}", "a bucket name such as my-models")
_KMS_KEY = (
    r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+",
    "the ARN of a KMS key, such as arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
)
_PART = r"(?!\.+(?:/|$))[A-Za-z0-9!_.*'()-]+"
_PREFIX = (  # an S3 key has at most 1,024 bytes, including the model name and 64 digits
    f"(?=.{{0,512}}$)/?(?:{_PART}(?:/{_PART})*)?/?",
    "up to 512 characters: names of letters, digits and !_.*'()-, separated by /",
)
_INPUTS = (r"\s*(?:s3://[^\s,]+[\s,]*)*", "a list of s3://bucket/prefix, separated by spaces")
_IMAGE = (r"[a-z0-9][\w.:/@-]*", "an image name such as public.ecr.aws/lambda/python:3.13")


@dataclass(frozen=True)
class Key:
    """A configuration key. `example` is the value that `mlinfer init` writes, commented out, if there is no default."""

    name: str
    default: Any
    kind: type[str] | type[int]
    comment: str
    example: Any = None
    choices: tuple[str, ...] | tuple[int, ...] = ()
    pattern: tuple[str, str] = ("", "")
    limits: tuple[int, int] = (1, 2**31 - 1)


KEYS = (
    Key(
        "model",
        "",
        str,
        "Path of the model file, or starter (the default): the built-in model with 10 classes (CIFAR-10).",
        "models/resnet18.onnx",
    ),
    Key(
        "target",
        "embedded",
        str,
        "Where `mlinfer predict` runs the model: embedded (in this process), local (mlinfer run-local) or aws.",
        choices=TARGETS,
    ),
    Key("top_k", 5, int, "Number of classes in a prediction."),
    Key(
        "threads",
        0,
        int,
        "Number of onnxruntime threads. Default: the number of cores.",
        1,
        limits=(1, MAX_THREADS),
    ),
    Key("max_pixels", MAX_PIXELS, int, "Largest image (width x height, in pixels) that is decoded."),
    Key(
        "project",
        "",
        str,
        "Project name, used for names and tags in AWS. Default: the name of this folder.",
        "my-project",
        pattern=_PROJECT,
    ),
    Key("bucket", "", str, "S3 bucket of the models.", "my-models", pattern=_BUCKET),
    Key(
        "kms_key",
        "",
        str,
        "ARN of the KMS key that encrypts the objects in the bucket. Default: the encryption of the bucket.",
        "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        pattern=_KMS_KEY,
    ),
    Key(
        "prefix",
        "models",
        str,
        "Prefix of the models in the bucket: s3://BUCKET/PREFIX/NAME/SHA256.onnx.",
        pattern=_PREFIX,
    ),
    Key(
        "base_image",
        BASE_IMAGE,
        str,
        "Base image of the container image: a Lambda base image for Python.",
        pattern=_IMAGE,
    ),
    Key(
        "builder",
        "auto",
        str,
        "What builds the container image: docker (the Docker Engine), direct (mlinfer itself), or auto (docker if an Engine responds).",
        choices=BUILDERS,
    ),
    Key(
        "ca_bundle",
        "",
        str,
        "PEM file of additional certificates that pip trusts during the build. It is not copied into the container image.",
        "company-ca.pem",
    ),
    Key("arch", "x86_64", str, "CPU architecture: x86_64 or arm64.", choices=ARCHITECTURES),
    Key(
        "model_source",
        "s3",
        str,
        "Where the function gets the model from: s3 or image (the container image).",
        choices=MODEL_SOURCES,
    ),
    Key("port", 9000, int, "Port of `mlinfer run-local` on 127.0.0.1.", limits=(1, 65535)),
    Key("memory", 1769, int, "Memory size of the function in MB. 1769 MB equal one vCPU.", limits=(128, 10240)),
    Key("timeout", 30, int, "Timeout of a request in seconds.", limits=(1, 900)),
    Key("tmp", 512, int, "Size of the function's /tmp in MB.", limits=(512, 10240)),
    Key(
        "input_prefixes",
        "",
        str,
        'S3 prefixes that {"s3": ...} in a request may read. Default: none.',
        "s3://my-pictures/inbox/",
        pattern=_INPUTS,
    ),
    Key("concurrency", 0, int, "Reserved concurrency of the function. Default: not reserved.", 10),
    Key("log_days", 14, int, "Retention of the function's log in days.", choices=LOG_DAYS),
    Key(
        "prices",
        "",
        str,
        "Price table of `mlinfer bench` and `mlinfer tune`. Default: the table in the package.",
        "prices.toml",
    ),
    Key("url", "none", str, "Function URL: none, iam (signed requests) or public.", choices=URLS),
)
_BY_NAME = {key.name: key for key in KEYS}


@dataclass(frozen=True)
class Config:
    """The effective configuration. `origins[name]` is the source of each value.

    model "" = the starter; threads 0 = all cores; bucket "" = none; kms_key "" = the bucket's default; concurrency 0 = not reserved;
    prices "" = the package's; ca_bundle "" = pip's own certificates alone.
    """

    model: str
    target: TargetName
    top_k: int
    threads: int
    max_pixels: int
    project: str
    bucket: str
    kms_key: str
    prefix: str
    base_image: str
    builder: str
    ca_bundle: str
    arch: str
    model_source: str
    port: int
    memory: int
    timeout: int
    tmp: int
    input_prefixes: str
    concurrency: int
    log_days: int
    prices: str
    url: str
    origins: Mapping[str, str]

    def items(self) -> list[tuple[str, Any, str]]:
        """Return (name, value, origin) of each key, in the order of KEYS."""
        return [(key.name, getattr(self, key.name), self.origins[key.name]) for key in KEYS]

    def handler_environment(self) -> dict[str, str]:
        """Return the handler's environment variables, without those of its model; see lambda_src/settings.py."""
        settings = {"MLINFER_INPUT_PREFIXES": " ".join(self.input_prefixes.replace(",", " ").split())}
        settings["MLINFER_MAX_PIXELS"] = str(self.max_pixels) if self.max_pixels != MAX_PIXELS else ""
        settings["MLINFER_THREADS"] = str(self.threads) if self.threads else ""
        return {name: value for name, value in settings.items() if value}


def load_config(folder: Path, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """Merge file, environment and options; an option that is None was not given. Raises UsageError, MissingError."""
    values = {key.name: key.default for key in KEYS}
    origins = {key.name: "default" for key in KEYS}
    for name, value in _read_file(folder / FILE_NAME).items():
        values[name] = _checked(_key(name), value, FILE_NAME)
        origins[name] = FILE_NAME
    for key in KEYS:
        variable = f"MLINFER_{key.name.upper()}"
        if text := environment.get(variable, ""):
            values[key.name] = _checked(key, _from_text(key, text, variable), variable)
            origins[key.name] = variable
    for name, value in flags.items():
        if value is not None:
            if value == "" and name != "prefix":
                raise UsageError("invalid_value", f"{name} from {COMMAND_LINE} is empty", "Omit it to use the default.")
            values[name] = _checked(_BY_NAME[name], value, COMMAND_LINE)
            origins[name] = COMMAND_LINE
    values["project"] = values["project"] or _project_name(folder)
    return Config(**values, origins=origins)


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return each unknown `MLINFER_*` variable with the most similar known one, or "".

    Variables that only the handler reads, such as MLINFER_MODEL_URI, are unknown here too.
    """
    known = [key.name.upper() for key in KEYS]
    given = sorted(name.removeprefix("MLINFER_") for name in environment if name.startswith("MLINFER_"))
    unknown = [name for name in given if name not in known and not name.startswith("REQUIRE_")]
    return {f"MLINFER_{name}": "".join(f"MLINFER_{near}" for near in _near(name, known)) for name in unknown}


def template(bucket: str = "") -> str:
    """Return the text of a `mlinfer.toml` that lists every key, commented out, except the bucket if there is one.

    Raises UsageError if the bucket's name is invalid.
    """
    _checked(_BY_NAME["bucket"], bucket, "your answer")
    lines = [
        "# Configuration of mlinfer for this project. To change a setting, uncomment it. Values are defaults or examples.",
        "# Options (--model, ...) override environment variables (MLINFER_MODEL, ...), which override this file.",
        "# `mlinfer inspect --config` shows the effective values and where they come from.",
    ]
    for key in KEYS:
        value = key.example if key.example is not None else key.default
        setting = f"# {key.name} = {value}" if key.kind is int else f'# {key.name} = "{value}"'
        lines += ["", f"# {key.comment}", f'bucket = "{bucket}"' if bucket and key.name == "bucket" else setting]
    return "\n".join(lines) + "\n"


def with_value(text: str, name: str, value: int) -> str:
    """Return the text of a `mlinfer.toml` with one number changed and everything else kept. Raises UsageError.

    A new line goes below the commented-out key, or at the end.
    """
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    number, comment = rf"(\s*{name}\s*=\s*)[0-9_]+", rf"# {name} ="
    if found := [i for i, line in enumerate(lines) if re.match(number, line)]:
        lines[found[0]] = re.sub(number, rf"\g<1>{value}", lines[found[0]], count=1)
    else:
        found = [i for i, line in enumerate(lines) if re.match(comment, line)] or [len(lines) - 1]
        lines.insert(found[0] + 1, f"{name} = {value}{end}")
    edited = "".join(lines)
    import tomllib

    try:
        if tomllib.loads(edited) == tomllib.loads(text) | {name: value}:
            return edited
    except tomllib.TOMLDecodeError:
        pass  # for example, the line is in a multi-line string
    raise UsageError("not_edited", f"cannot edit {FILE_NAME}", f"Add this line to the file: {name} = {value}")


def _read_file(path: Path) -> dict[str, Any]:
    if path.is_fifo():  # reading it would block
        raise UsageError("config_unreadable", f"cannot read {path.name}: it is a pipe", "Replace it with a file.")
    if path.is_symlink() and not path.exists():
        message = f"{path.name} is a link to {path.readlink()}, which does not exist"
        raise UsageError("config_unreadable", message, "Correct or remove the link.")
    try:
        text = read_text(path)
    except MissingError:
        return {}
    except UsageError as error:
        raise UsageError("config_unreadable", str(error), error.hint) from error
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError("invalid_config", f"{path.name} is not valid TOML", reason=error) from error


def _key(name: str) -> Key:
    if name in _BY_NAME:
        return _BY_NAME[name]
    near = _near(name, list(_BY_NAME))
    hint = f"Did you mean {near[0]}?" if near else f"Use one of these keys: {', '.join(_BY_NAME)}."
    raise UsageError("unknown_key", f"{FILE_NAME} has an unknown key, {name!r}", hint)


def _near(name: str, known: list[str]) -> list[str]:
    """Return the most similar known name, without regard to underscores; an empty list if none is similar."""
    plain = {other.replace("_", ""): other for other in known}
    return [plain[found] for found in difflib.get_close_matches(name.replace("_", ""), plain, n=1)]


def _from_text(key: Key, text: str, variable: str) -> Any:
    if key.kind is str:
        return text
    try:
        return int(text)
    except ValueError as error:
        raise UsageError("invalid_value", f"{variable} is {text!r}, not a whole number") from error


def _project_name(folder: Path) -> str:
    """Return the folder name in lower case, with hyphens for other characters, as Docker Compose does. Raises MissingError."""
    try:
        folder_name = folder.resolve().name
    except FileNotFoundError as error:
        hint = "Change to another folder, or set --project."
        raise MissingError("no_folder", "the current folder no longer exists", hint) from error
    name = re.sub("[^a-z0-9]+", "-", folder_name.lower()).strip("-")
    return name[:32].rstrip("-") or "mlinfer"


def _checked(key: Key, value: Any, origin: str) -> Any:
    low, high = key.limits
    if key.kind is int and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
        wanted = f"a whole number from {low:,} to {high:,}"
        raise UsageError("invalid_value", f"{key.name} from {origin} is {value!r}, not {wanted}")
    if key.kind is str and not isinstance(value, str):
        raise UsageError("invalid_value", f"{key.name} from {origin} is {value!r}, not a string")
    pattern, meaning = key.pattern
    if pattern and value and not re.fullmatch(pattern, value):
        raise UsageError("invalid_value", f"{key.name} from {origin} is {value!r}, not {meaning}")
    if key.choices and value not in key.choices:
        raise UsageError(
            "invalid_value", f"{key.name} from {origin} is {value!r}, not one of: {', '.join(map(str, key.choices))}"
        )
    return value
