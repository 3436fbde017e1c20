"""The commands of the container image on this machine: build, run-local."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...config import COMMAND_LINE, FILE_NAME, Config
from ...errors import MissingError, UsageError
from ...files import file_lock
from ...terminal import Terminal
from ..options import (
    JsonFlag,
    ModelFlag,
    PortFlag,
    ProfileFlag,
    ProjectFlag,
    QuietFlag,
    RegionFlag,
    VerboseFlag,
    app,
    configuration,
    one_at_a_time,
    report_unused,
    require,
)

if TYPE_CHECKING:
    from ...clients.docker import Container, Engine
    from ...container_image.docker_build import Built, Recipe
    from ...local.container import Function, Running
    from ...model.modelfile import ModelFile

ArchFlag = Annotated[
    str | None, typer.Option("--arch", metavar="x86_64|arm64", help="Of image and function.", show_default=False)
]
ModelSourceFlag = Annotated[
    str | None,
    typer.Option("--model-source", metavar="s3|image", help="Where the function finds the model.", show_default=False),
]


@app.command()
def build(
    model: ModelFlag = None,
    arch: ArchFlag = None,
    model_source: ModelSourceFlag = None,
    project: ProjectFlag = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Take no layer from an earlier build.")] = False,
    ca_bundle: Annotated[
        str | None,
        typer.Option(
            "--ca-bundle",
            metavar="FILE",
            help="PEM file that pip trusts during the build; it stays out of the image.",
            show_default=False,
        ),
    ] = None,
    pull: Annotated[bool, typer.Option("--pull", help="Ask the registry for a newer base image first.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Build the Lambda image, unless it is there:  mlinfer build"""
    from ...clients import docker as engine

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(model=model, arch=arch, model_source=model_source, project=project, ca_bundle=ca_bundle)
    require(lambda: image_recipe(config), lambda: engine.connect(os.environ))
    recipe = image_recipe(config)
    tell_of_unused_model(terminal, config)
    built = build_image(terminal, engine.connect(os.environ), recipe, pull=pull, cache=not no_cache)
    if as_json:
        terminal.document(asdict(built))
    else:
        terminal.text(built.tag)


@app.command("run-local")
def run_local(
    model: ModelFlag = None,
    port: PortFlag = None,
    memory: Annotated[
        int | None, typer.Option("--memory", metavar="MB", help="Of the function; 1769 MB give one vCPU.")
    ] = None,
    timeout: Annotated[int | None, typer.Option("--timeout", metavar="SECONDS", help="Of the function.")] = None,
    arch: ArchFlag = None,
    model_source: ModelSourceFlag = None,
    from_s3: Annotated[
        bool, typer.Option("--from-s3", help="Let the function fetch the uploaded model, as in Lambda.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running, and return.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop this project's container.")] = False,
    no_docker: Annotated[
        bool, typer.Option("--no-docker", help="Serve from this process, without Lambda's limits.")
    ] = False,
    project: ProjectFlag = None,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Run the Lambda image here, under Lambda's limits:  mlinfer run-local --detach

    It listens on http://127.0.0.1:9000/2015-03-31/functions/function/invocations until Ctrl-C, or --stop.
    """
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(
        model=model, port=port, memory=memory, timeout=timeout, arch=arch, model_source=model_source, project=project
    )
    if no_docker:
        if detach or stop or from_s3:
            raise UsageError("usage", "--no-docker goes with none of --detach, --stop and --from-s3", "Ctrl-C ends it.")
        keys = ("memory", "timeout", "arch", "model_source")
        aws = {"project": project, "region": region, "profile": profile}
        report_unused(terminal, config, "--no-docker serves from this process", *keys, **aws)
        _serve(terminal, config)
        return
    if stop:
        sizes = {"memory": memory, "timeout": timeout, "arch": arch, "model_source": model_source}
        others = {"from_s3": from_s3, "detach": detach, "region": region, "profile": profile}
        report_unused(terminal, config, "--stop starts nothing", model=model, port=port, **sizes, **others)
    elif not from_s3:
        report_unused(terminal, config, "without --from-s3 the function uses no AWS", region=region, profile=profile)
    from ...clients import docker as engine
    from ...local import container
    from ...targets import embedded

    if not stop:
        require(lambda: engine.connect(os.environ), lambda: embedded.model_path(config))
    docker = engine.connect(os.environ)
    if stop:
        _stop(terminal, container.stop(docker, config.project))
        return
    container.require_local(docker)
    # Before the build, so that what is wrong is said first.
    foresee(terminal, config)
    credentials = s3_environment(terminal, config, region, profile) if from_s3 else {}
    recipe = image_recipe(config)
    function = local_function(config, recipe.tag(), credentials, from_s3=from_s3)
    build_image(terminal, docker, recipe)
    with file_lock(f"mlinfer-run-local-{config.project}"):  # a second one at once finds what the first has started
        running, started = container.run(docker, function, one_at_a_time(config))
    with _until_left(started, keep=detach):
        _show_running(terminal, config, function, running)
        if not detach:
            _follow(terminal, started)


def build_image(terminal: Terminal, docker: Engine, recipe: Recipe, *, pull: bool = False, cache: bool = True) -> Built:
    """Build an image, or find it there, and say so."""
    from ...container_image import docker_build

    with terminal.progress(f"Building {recipe.tag()}") as tell:
        built = docker_build.build(docker, recipe, tell, pull=pull, cache=cache)
    above = sum(built.layers.values())
    sizes = ", ".join(
        f"{name} {_megabytes(size)}" for name, size in built.layers.items() if name != "model" or recipe.model
    )
    outcome = {"made": "Built", "unchanged": "Unchanged:"}[built.outcome]
    terminal.note(f"{outcome} {built.tag} ({built.arch}): {_megabytes(above)} above the base ({sizes}).")
    return built


def image_recipe(config: Config) -> Recipe:
    """Return what the configured image is made of, and how pip gets its packages. Raises MissingError, UsageError."""
    from ...container_image import docker_build
    from ...model import footprint
    from ...targets import embedded

    if config.model_source == "image":
        footprint.check_image(embedded.model_path(config).stat().st_size)  # before gigabytes are read
    model = _model_file(config) if config.model_source == "image" else None
    ca_bundle = _ca_bundle(config) if config.ca_bundle else None
    proxies = docker_build.build_proxies(os.environ)
    return docker_build.Recipe(config.project, config.base_image, config.arch, model, ca_bundle, proxies)


def tell_of_unused_model(terminal: Terminal, config: Config) -> None:
    """Say that a model named for this command does not go into the image, once it is known to be one. Raises MlinferError."""
    origin = config.origins["model"]
    if config.model_source == "s3" and origin not in ("default", FILE_NAME):
        model = _model_file(config)
        terminal.note(
            f"{model.path} (from {origin}) is not in this image: with model_source s3 the function gets its model from S3. "
            "To put it into the image: --model-source image"
        )


def foresee(terminal: Terminal, config: Config) -> None:
    """Say when the configured function has barely room for its model. Raises UsageError when it has none."""
    from ...model import footprint
    from ...targets import embedded

    size = embedded.model_path(config).stat().st_size
    if note := footprint.foresee(size, config.memory, config.tmp if config.model_source == "s3" else None):
        terminal.note(note)


def _ca_bundle(config: Config) -> Path:
    """Return the configured certificates. Raises MissingError, UsageError."""
    path = Path(config.ca_bundle)
    named = f"{path} (ca_bundle from {config.origins['ca_bundle']})"
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "Name the PEM file of your proxy's certificate, or leave ca_bundle out."
        raise MissingError("ca_bundle_not_found", f"{named} cannot be read: {error.strerror}", hint) from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        hint = "Convert it: openssl x509 -inform der -in FILE -out ca.pem"
        raise UsageError("invalid_ca_bundle", f"{named} holds no certificate in PEM format", hint)
    return path


def _model_file(config: Config) -> ModelFile:
    """Return the configured model file. Raises UsageError if a function could not predict with it."""
    from ...model import modelfile
    from ...targets import embedded

    model = modelfile.read_model_file(embedded.model_path(config))
    modelfile.require_metadata(model)
    return model


def local_function(config: Config, tag: str, credentials: dict[str, str], *, from_s3: bool) -> Function:
    """Return how the image is to run: with the configured model mounted, inside the image or, `from_s3`, fetched."""
    from ...local import container

    environment = config.handler_environment() | credentials
    fetched = 0
    mounted = None
    if from_s3:
        from ...cloud.resources import model_object  # and with it boto3

        file = _model_file(config)
        environment["MLINFER_MODEL_URI"] = f"s3://{config.bucket}/{model_object.object_key(file, config.prefix)}"
        environment["MLINFER_MODEL_SHA256"] = file.sha256
        fetched = file.bytes
    elif config.model_source == "s3":
        file = _model_file(config)
        environment["MLINFER_MODEL_SHA256"] = file.sha256
        mounted = file.path
    return container.Function(
        tag,
        config.project,
        config.port,
        config.memory,
        config.tmp,
        config.timeout,
        environment,
        mounted,
        fetched,
    )


def s3_environment(terminal: Terminal, config: Config, region: str | None, profile: str | None) -> dict[str, str]:
    """Return the AWS credentials, Region and endpoint that boto3 finds here, as Lambda would give its own."""
    from ...clients import aws

    if config.model_source != "s3":
        raise UsageError("usage", "--from-s3 needs model_source s3", "Leave out --model-source image.")

    def need_bucket() -> None:
        if not config.bucket:
            hint = "Set bucket in mlinfer.toml, and mlinfer upload first."
            raise UsageError("no_bucket", "no S3 bucket is named", hint)

    found: dict[str, str] = {}
    ask = terminal.ask_secret
    require(need_bucket, lambda: found.update(aws.container_environment(region=region, profile=profile, ask=ask)))
    return found


@contextmanager
def _until_left(started: Container, *, keep: bool) -> Iterator[None]:
    """Remove the container at the end, however that comes, unless it is to be kept."""
    try:
        yield
    except BaseException:
        started.remove()
        raise
    if not keep:
        started.remove()


def _show_running(terminal: Terminal, config: Config, function: Function, running: Running) -> None:
    for note in running.notes:
        terminal.note(note)
    if terminal.as_json:
        terminal.document({key: value for key, value in asdict(running).items() if key != "notes"}, lines=True)
    else:
        terminal.text(running.url)
    ready = {"made": "Ready", "unchanged": "It runs already"}[running.outcome]
    model = f"{running.model['name']} ({running.model['sha256'][:12]})"
    terminal.note(f"{ready}: {model}, {function.memory} MB, timeout {function.timeout} s.")
    _show_how_to_ask(terminal, config, running.url)


def _show_how_to_ask(terminal: Terminal, config: Config, url: str) -> None:
    """Show two commands that work with any picture, wherever they are typed."""
    port = f" --port {config.port}" if config.origins["port"] == COMMAND_LINE else ""
    terminal.note(f"Ask it: mlinfer predict --target local{port} cat.jpg")
    body = """(printf '{"image": "'; base64 < cat.jpg; printf '"}')"""  # curl -d leaves out base64's line breaks
    terminal.note(f"  or:   {body} | curl -d @- {url}")


def _follow(terminal: Terminal, started: Container) -> None:
    """Show the log until Ctrl-C. Raises RemoteError if the container ends by itself."""
    from ...local import container

    terminal.note("Its log follows; Ctrl-C stops it.")
    try:
        while True:
            for line in started.follow():
                for shown in [line] if terminal.is_verbose else container.handlers_lines([line]):
                    terminal.note(shown.rstrip("\r"))
            if started.state().status not in ("running", "restarting"):
                raise container.crash(started, "the container ended")
    except KeyboardInterrupt:
        terminal.note("Stopping and removing the container.")
        raise


def _stop(terminal: Terminal, names: list[str]) -> None:
    if terminal.as_json:
        terminal.document({"stopped": names})
    terminal.note(f"Stopped and removed {', '.join(names)}." if names else "Nothing of this project was running.")


def _serve(terminal: Terminal, config: Config) -> None:
    from ...local import address, serve
    from ...targets import embedded

    log: Callable[[str], Any] = terminal.note
    server = serve.Server(embedded.service(config, log=log), config.port, config.project)
    url = address.address(config.port) + address.INVOCATIONS
    if terminal.as_json:
        terminal.document({"url": url}, lines=True)
    else:
        terminal.text(url)
    terminal.note(
        "Ready, without Docker: Lambda's limits of memory, CPU, time and disk are not applied. Ctrl-C stops it."
    )
    _show_how_to_ask(terminal, config, url)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
