"""`mlinfer deploy`: deploy model and container image to AWS Lambda, and verify the answers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...config import URLS, Config
from ...errors import UsageError
from ...names import Account, Names
from ...terminal import Terminal
from ..application import AWS, FUNCTION, command
from ..options import (
    ArchFlag,
    AwsOptions,
    BucketFlag,
    BuilderFlag,
    MemoryFlag,
    ModelFlag,
    ModelSourceFlag,
    NoBytecodeFlag,
    OutputOptions,
    PrefixFlag,
    TimeoutFlag,
    YesFlag,
    find_account,
    make_deployment_clients,
    make_waiter,
    read_configuration,
    report_unused,
    require_digest,
)
from ..views.image import open_builder, push_image, require_builder
from ..views.model import warn_of_size
from ..views.plan import describe_steps, show_planned_step, steps_shown

if TYPE_CHECKING:
    from ...clients.aws import Session
    from ...cloud.deploy import DeployableImage, Deployment, DeploymentSpec, ImageSource
    from ...cloud.plan import Outcome


@dataclass(frozen=True)
class DeployOptions:
    """What to deploy, and what the deployment may do."""

    model: ModelFlag = None
    bucket: BucketFlag = None
    prefix: PrefixFlag = None
    create_bucket: Annotated[
        bool, typer.Option("--create-bucket", help="Create the bucket if it does not exist.", rich_help_panel=AWS)
    ] = False
    model_source: ModelSourceFlag = None
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="REPOSITORY@DIGEST",
            help="Container image, as printed by `mlinfer push`.",
            show_default="build and push now",
            rich_help_panel=FUNCTION,
        ),
    ] = None
    arch: ArchFlag = None
    builder: BuilderFlag = None
    no_bytecode: NoBytecodeFlag = False
    memory: MemoryFlag = None
    timeout: TimeoutFlag = None
    tmp: Annotated[
        int | None,
        typer.Option("--tmp", metavar="MB", help="Size of /tmp.", show_default="512", rich_help_panel=FUNCTION),
    ] = None
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            metavar="N",
            help="Reserved concurrency: maximum number of parallel requests.",
            show_default="not reserved",
            rich_help_panel=FUNCTION,
        ),
    ] = None
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="|".join(URLS),
            help="Function URL (`public` asks for confirmation).",
            show_default="none",
            rich_help_panel=FUNCTION,
        ),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, without changing anything.")] = (
        False
    )
    yes: YesFlag = False


@command(
    "mlinfer deploy --bucket my-models --create-bucket",
    "mlinfer deploy --dry-run",
    "mlinfer deploy --model models/resnet18.onnx --memory 3008",
    "mlinfer deploy --url iam",
)
def deploy(*, wanted: DeployOptions, aws: AwsOptions, output: OutputOptions) -> None:
    """Deploy the model to AWS Lambda and verify its answers.

    Each step changes only what differs, so an interrupted deployment continues when you run the command again. The new version gets traffic only after it has classified sample images exactly as the model does on this machine.
    """
    from ...cloud.deploy import DeploymentTools, plan_deployment
    from ...cloud.deploy import deploy as apply_deployment
    from ...targets import embedded

    terminal = output.make_terminal()
    config = read_configuration(wanted, aws)
    if config.model_source == "image":
        report_unused(terminal, config, "the container image contains the model", "prefix")
        report_unused(terminal, config, "no bucket is set", create_bucket=wanted.create_bucket and not config.bucket)
        report_unused(terminal, config, "no bucket is set", *([] if config.bucket else ["kms_key"]))
    if wanted.image:
        report_unused(
            terminal,
            config,
            "--image names a container image that is already built",
            *("base_image", "ca_bundle", "builder"),
            no_bytecode=wanted.no_bytecode,
        )
    _agree_to_public(terminal, config, asked=not (wanted.yes or wanted.dry_run))
    given = _Given(require_digest(wanted.image)) if wanted.image else None
    session = aws.account.open_session(terminal, *_needs(config, builds=not given))
    warn_of_size(terminal, config)
    here = embedded.make_target(config, log=terminal.detail)
    spec = _spec(config, session, create_bucket=wanted.create_bucket)
    if config.origins["model"] == "default":
        _agree_to_starter(spec, session)
    source = _source(terminal, spec, session, given, no_bytecode=wanted.no_bytecode)
    own = not given or _is_own_repository(given.uri, spec.account, spec.names)
    clients = replace(make_deployment_clients(session), ecr=session.client("ecr") if own else None)
    planned = plan_deployment(spec, clients, DeploymentTools(source, here, make_waiter(terminal), terminal.bytes_bar))
    if wanted.dry_run:
        planned.try_image()
        _show_plan(terminal, planned.preview())
    else:
        with steps_shown(terminal) as show:
            made = apply_deployment(planned, show)
        _show_deployment(terminal, spec, made)


def _is_own_repository(image: str, account: Account, names: Names) -> bool:
    """Tell whether a container image is in the project's repository. Raises UsageError if it is in another Region."""
    registry = re.match(r"(\d{12})\.dkr[.-]ecr\.([a-z0-9-]+)\.", image)
    if registry and registry[2] != account.region:
        message = f"the container image is in Region {registry[2]}, but the function is in {account.region}"
        raise UsageError(
            "wrong_image_region", message, f"Push it to that Region with `mlinfer push --region {account.region}`."
        )
    return f"/{names.image}@" in image and (not registry or registry[1] == account.id)


def _agree_to_public(terminal: Terminal, config: Config, *, asked: bool) -> None:
    """Ask for confirmation of a public URL. Raises UsageError."""
    if config.url == "public" and asked:
        question = "Anyone can call a function with a public URL, at your cost. Continue?"
        if not terminal.confirm(question):
            hint = "Confirm with `mlinfer deploy --url public --yes`, or require signed requests with `--url iam`."
            raise UsageError("not_confirmed", "the public URL was not confirmed, so nothing was changed", hint)


def _needs(config: Config, *, builds: bool) -> list[Callable[[], object]]:
    """Return the checks of what a deployment needs on this machine."""
    from ...model.path import model_path

    connect = [lambda: require_builder(config)] if builds else []
    return [lambda: _require_bucket(config), lambda: model_path(config), *connect]


def _require_bucket(config: Config) -> None:
    if config.model_source == "s3" and not config.bucket:
        hint = "Run `mlinfer deploy --bucket NAME --create-bucket`, or set `bucket` in mlinfer.toml (`mlinfer init` creates the file)."
        raise UsageError("no_bucket", "no S3 bucket is set for the model", hint)


def _agree_to_starter(spec: DeploymentSpec, session: Session) -> None:
    """Raise UsageError if the default model, the starter, would replace another model."""
    from ...cloud import status

    served = status.served_model(session.client("lambda"), spec.names)
    if served and served != spec.file.sha256:
        message = f"function {spec.names.function} serves another model ({served[:12]}), and no model is set here"
        hint = "Name your model with `--model FILE`. For the built-in model, use `--model starter`."
        raise UsageError("starter_not_named", message, hint)


def _spec(config: Config, session: Session, *, create_bucket: bool) -> DeploymentSpec:
    from ...cloud import deploy
    from ...model import modelfile
    from ...model.path import model_path

    file = modelfile.read_model_file(model_path(config))
    return deploy.DeploymentSpec(config, file, find_account(session), create_bucket)


@dataclass(frozen=True)
class _Given:
    """A container image that is already pushed."""

    uri: str
    outcome: Outcome = "unchanged"


def _source(
    terminal: Terminal, spec: DeploymentSpec, session: Session, given: _Given | None, *, no_bytecode: bool
) -> ImageSource:
    """Return the source of the container image: the given one, or one that is built and pushed if needed."""
    from ...cloud.deploy import ImageSource
    from ...container_image.contents import make_build_spec
    from ...container_image.push import plan_push

    if given:
        return ImageSource(lambda _: given, lambda: given)
    ecr, config = session.client("ecr"), spec.config
    builder = open_builder(terminal, config, no_bytecode=no_bytecode)

    def plan(repository: str) -> DeployableImage:
        tag = builder.complete(make_build_spec(config, os.environ)).tag()
        return plan_push(builder, ecr, repository=repository, tag=tag, arch=config.arch)

    def push() -> DeployableImage:
        _, pushed = push_image(terminal, builder, ecr, config)
        return _Given(pushed.uri, "created" if pushed.outcome == "pushed" else "unchanged")

    return ImageSource(plan, push)


def _show_plan(terminal: Terminal, planned: Deployment) -> None:
    """Write each step and what it would change."""
    for step in planned.steps:
        show_planned_step(terminal, step)
    if terminal.as_json:
        terminal.document(_as_document(planned, dry_run=True))
    else:
        terminal.note("Nothing was changed. Run `mlinfer deploy` without --dry-run to apply this plan.")


def _show_deployment(terminal: Terminal, spec: DeploymentSpec, made: Deployment) -> None:
    """Show the URL and how to call the function."""
    if terminal.as_json:
        terminal.document(_as_document(made, dry_run=False))
        return
    if made.url:
        terminal.text(made.url)
    terminal.note(f"Deployed: version {made.version} of function {made.function}, verified. Try it:")
    terminal.note("  mlinfer predict cat.jpg --target aws")
    if made.url and spec.config.url == "public":
        terminal.note(f"  curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' {made.url}")


def _as_document(made: Deployment, *, dry_run: bool) -> dict[str, Any]:
    facts = {"function": made.function, "alias": made.alias, "version": made.version, "image": made.image}
    more: dict[str, Any] = {"model": made.model, "url": made.url or None, "dry_run": dry_run}
    return {**facts, **more, "steps": describe_steps(made.steps, dry_run=dry_run)}
