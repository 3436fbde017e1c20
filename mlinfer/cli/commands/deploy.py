"""`mlinfer deploy`: bring model and image to Lambda and let it go live once the answer is proved."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...config import Config
from ...errors import UsageError
from ...names import Account, Names
from ...terminal import Terminal
from ..application import command
from ..options import (
    ArchFlag,
    AwsOptions,
    ModelFlag,
    ModelSourceFlag,
    OutputOptions,
    YesFlag,
    find_account,
    make_deployment_clients,
    make_waiter,
    read_configuration,
    report_unused,
    require_digest,
)
from ..views.image import push_image
from ..views.model import warn_of_size
from ..views.plan import describe_steps, show_step

if TYPE_CHECKING:
    from ...clients.aws import Session
    from ...cloud.deploy import DeployableImage, Deployment, DeploymentSpec, ImageSource
    from ...cloud.plan import Outcome


@dataclass(frozen=True)
class DeployOptions:
    """What is to be live, and what may be done for it."""

    model: ModelFlag = None
    bucket: Annotated[str | None, typer.Option("--bucket", help="S3 bucket of the model.", show_default=False)] = None
    prefix: Annotated[str | None, typer.Option("--prefix", help="Prefix of the key.", show_default=False)] = None
    create_bucket: Annotated[bool, typer.Option("--create-bucket", help="Make the bucket if there is none.")] = False
    model_source: ModelSourceFlag = None
    image: Annotated[
        str | None,
        typer.Option(
            "--image", metavar="REPOSITORY@DIGEST", help="What `mlinfer push` printed; default: build and push now."
        ),
    ] = None
    arch: ArchFlag = None
    memory: Annotated[int | None, typer.Option("--memory", help="MB; 1769 give one vCPU.")] = None
    timeout: Annotated[int | None, typer.Option("--timeout", help="Seconds.")] = None
    tmp: Annotated[int | None, typer.Option("--tmp", help="Size of /tmp, MB.")] = None
    concurrency: Annotated[int | None, typer.Option("--concurrency", help="How many run at once, reserved.")] = None
    url: Annotated[
        str | None, typer.Option("--url", metavar="none|iam|public", help="The function's own URL; public asks first.")
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False
    yes: YesFlag = False


@command
def deploy(*, wanted: DeployOptions, aws: AwsOptions, output: OutputOptions) -> None:
    """Bring model and image to Lambda, prove the answer, go live:  mlinfer deploy --bucket my-models --create-bucket

    Each step changes only what differs; run again, it finishes what was cut short. Traffic moves to the new version only when this has answered sample pictures as the model does here.
    """
    from ...cloud.deploy import DeploymentTools, plan_deployment
    from ...cloud.deploy import deploy as apply_deployment
    from ...targets import embedded

    terminal = output.make_terminal()
    config = read_configuration(wanted, aws)
    if config.model_source == "image":
        report_unused(terminal, config, "the image holds the model", "prefix")
        report_unused(terminal, config, "no bucket is named", create_bucket=wanted.create_bucket and not config.bucket)
        report_unused(terminal, config, "no bucket is named", *([] if config.bucket else ["kms_key"]))
    if wanted.image:
        report_unused(terminal, config, "--image names an image that is built already", "base_image", "ca_bundle")
    _agree_to_public(terminal, config, asked=not (wanted.yes or wanted.dry_run))
    given = _Given(require_digest(wanted.image)) if wanted.image else None
    session = aws.account.open_session(terminal, *_needs(config, builds=not given))
    warn_of_size(terminal, config)
    here = embedded.make_target(config, log=terminal.detail)
    spec = _spec(config, session, create_bucket=wanted.create_bucket)
    if config.origins["model"] == "default":
        _agree_to_starter(spec, session)
    source = _source(terminal, spec, session, given)
    own = not given or _is_own_repository(given.uri, spec.account, spec.names)
    clients = replace(make_deployment_clients(session), ecr=session.client("ecr") if own else None)
    planned = plan_deployment(spec, clients, DeploymentTools(source, here, make_waiter(terminal), terminal.bytes_bar))
    if wanted.dry_run:
        planned.try_image()
        _show_plan(terminal, planned.preview())
    else:
        _show_deployment(terminal, spec, apply_deployment(planned, partial(show_step, terminal, dry_run=False)))


def _is_own_repository(image: str, account: Account, names: Names) -> bool:
    """Tell whether an image is in the project's repository of this account. Raises UsageError for one of another Region."""
    registry = re.match(r"(\d{12})\.dkr[.-]ecr\.([a-z0-9-]+)\.", image)
    if registry and registry[2] != account.region:
        message = f"the image is in Region {registry[2]}, and the function in {account.region}: Lambda does not take it"
        raise UsageError("wrong_image_region", message, f"Push it there: mlinfer push --region {account.region}")
    return f"/{names.image}@" in image and (not registry or registry[1] == account.id)


def _agree_to_public(terminal: Terminal, config: Config, *, asked: bool) -> None:
    """Ask before the world may call the function. Raises UsageError."""
    if config.url == "public" and asked:
        question = "A public URL lets anybody call the function, at your cost. Go on?"
        if not terminal.confirm(question):
            hint = "To go on without being asked: mlinfer deploy --url public --yes. With --url iam callers must sign."
            raise UsageError("not_confirmed", "a public URL was not agreed to, and nothing was changed", hint)


def _needs(config: Config, *, builds: bool) -> list[Callable[[], object]]:
    """Return the checks of what a deployment needs here, AWS aside."""
    from ...clients import docker
    from ...model.path import model_path

    connect = [lambda: docker.connect(os.environ)] if builds else []
    return [lambda: _require_bucket(config), lambda: model_path(config), *connect]


def _require_bucket(config: Config) -> None:
    if config.model_source == "s3" and not config.bucket:
        hint = "Name a bucket with --bucket (--create-bucket makes it), or add --model-source image."
        raise UsageError("no_bucket", "no S3 bucket is named for the model", hint)


def _agree_to_starter(spec: DeploymentSpec, session: Session) -> None:
    """Refuse to replace another model by the starter that nobody named. Raises UsageError."""
    from ...cloud import status

    served = status.served_model(session.client("lambda"), spec.names)
    if served and served != spec.file.sha256:
        message = f"function {spec.names.function} serves another model ({served[:12]}), and no model is named here"
        hint = "Name yours with --model FILE. To deploy the built-in model: mlinfer deploy --model starter"
        raise UsageError("starter_not_named", message, hint)


def _spec(config: Config, session: Session, *, create_bucket: bool) -> DeploymentSpec:
    from ...cloud import deploy
    from ...model import modelfile
    from ...model.path import model_path

    file = modelfile.read_model_file(model_path(config))
    return deploy.DeploymentSpec(config, file, find_account(session), create_bucket)


@dataclass(frozen=True)
class _Given:
    """An image that was pushed before."""

    uri: str
    outcome: Outcome = "unchanged"


def _source(terminal: Terminal, spec: DeploymentSpec, session: Session, given: _Given | None) -> ImageSource:
    """Return where the image comes from: the given one, or one that is built and pushed unless that is done."""
    from ...clients import docker
    from ...cloud.deploy import ImageSource
    from ...container_image.contents import make_build_spec
    from ...container_image.push import plan_push

    if given:
        return ImageSource(lambda _: given, lambda: given)
    engine, ecr, config = docker.connect(os.environ), session.client("ecr"), spec.config

    def plan(repository: str) -> DeployableImage:
        tag = make_build_spec(config, os.environ).tag()
        return plan_push(engine, ecr, repository=repository, tag=tag, arch=config.arch)

    def push() -> DeployableImage:
        _, pushed = push_image(terminal, engine, ecr, config)
        return _Given(pushed.uri, "created" if pushed.outcome == "pushed" else "unchanged")

    return ImageSource(plan, push)


def _show_plan(terminal: Terminal, planned: Deployment) -> None:
    """Write each step with what would change."""
    for step in planned.steps:
        show_step(terminal, step, dry_run=True)
    if terminal.as_json:
        terminal.document(_as_document(planned, dry_run=True))
    else:
        terminal.note("Nothing was changed. Without --dry-run it is.")


def _show_deployment(terminal: Terminal, spec: DeploymentSpec, made: Deployment) -> None:
    """End by saying how to call what is live."""
    if terminal.as_json:
        terminal.document(_as_document(made, dry_run=False))
        return
    if made.url:
        terminal.text(made.url)
    terminal.note(f"Live: version {made.version} of {made.function}, proved. Ask it:")
    terminal.note("  mlinfer predict cat.jpg --target aws")
    if made.url and spec.config.url == "public":
        terminal.note(f"  curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' {made.url}")


def _as_document(made: Deployment, *, dry_run: bool) -> dict[str, Any]:
    facts = {"function": made.function, "alias": made.alias, "version": made.version, "image": made.image}
    more: dict[str, Any] = {"model": made.model, "url": made.url or None, "dry_run": dry_run}
    return {**facts, **more, "steps": describe_steps(made.steps, dry_run=dry_run)}
