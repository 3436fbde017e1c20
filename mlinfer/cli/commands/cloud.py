"""The commands of the function's life in AWS: deploy, status, rollback, destroy."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...config import Config
from ...errors import MissingError, MlinferError, UsageError
from ...names import Account, Names
from ...terminal import Terminal, printable
from ..options import (
    JsonFlag,
    ModelFlag,
    ProfileFlag,
    ProjectFlag,
    QuietFlag,
    RegionFlag,
    VerboseFlag,
    app,
    aws_session,
    configuration,
    report_unused,
)
from .container import ArchFlag, ModelSourceFlag, foresee, image_recipe

if TYPE_CHECKING:
    from ...clients.aws import Session
    from ...clients.waiter import Waiter
    from ...cloud.deploy import Clients, Deployment, Order, PushedImage
    from ...cloud.destroy import Removal
    from ...cloud.plan import Outcome, Step
    from ...cloud.resources.function import Wanted
    from ...cloud.rollback import Rollback
    from ...cloud.status import Status
    from ...model.modelfile import ModelFile

DIFFERS = 6  # exit code of `status --exit-code`

YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to what would be asked, as scripts must.")]


@app.command()
def deploy(
    model: ModelFlag = None,
    bucket: Annotated[str | None, typer.Option("--bucket", help="S3 bucket of the model.", show_default=False)] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Prefix of the key.", show_default=False)] = None,
    create_bucket: Annotated[bool, typer.Option("--create-bucket", help="Make the bucket if there is none.")] = False,
    model_source: ModelSourceFlag = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", metavar="REPOSITORY@DIGEST", help="What `mlinfer push` printed; default: build and push now."
        ),
    ] = None,
    arch: ArchFlag = None,
    memory: Annotated[int | None, typer.Option("--memory", help="MB; 1769 give one vCPU.")] = None,
    timeout: Annotated[int | None, typer.Option("--timeout", help="Seconds.")] = None,
    tmp: Annotated[int | None, typer.Option("--tmp", help="Size of /tmp, MB.")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", help="How many run at once, reserved.")] = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="none|iam|public", help="The function's own URL; public asks first.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    yes: YesFlag = False,
    project: ProjectFlag = None,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Bring model and image to Lambda, prove the answer, go live:  mlinfer deploy --bucket my-models --create-bucket

    Each step changes only what differs; run again, it finishes what was cut short. Traffic moves to the new version only when this has answered sample pictures as the model does here.
    """
    from ...cloud import deploy as step
    from ...targets import embedded as predict

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(
        model=model,
        bucket=bucket,
        prefix=prefix,
        model_source=model_source,
        arch=arch,
        memory=memory,
        timeout=timeout,
        tmp=tmp,
        concurrency=concurrency,
        url=url,
        project=project,
    )
    if config.model_source == "image":
        report_unused(terminal, config, "the image holds the model", "prefix")
        report_unused(terminal, config, "no bucket is named", create_bucket=create_bucket and not config.bucket)
    _agree_to_public(terminal, config, asked=not (yes or dry_run))
    given = _Given(_by_digest(image)) if image else None
    session = aws_session(terminal, region, profile, *_needs(config, docker=not given))
    foresee(terminal, config)
    embedded = predict.embedded(config, log=terminal.detail)
    order = _order(config, session, create_bucket=create_bucket, dry_run=dry_run)
    if config.origins["model"] == "default":
        _agree_to_starter(order, session)
    report = partial(_show_step, terminal, dry_run=dry_run)
    find_image = (lambda: given) if given else partial(_build_and_push, terminal, order, session)
    waiter = _waiter(terminal)
    elsewhere = given and f"/{order.names.image}@" not in given.uri
    clients = replace(_clients(session), ecr=None if elsewhere else session.client("ecr"))
    made = step.deploy(order, clients, find_image, embedded, waiter, report, terminal.bytes_bar)
    _show_deployment(terminal, order, made)


@app.command()
def status(
    model: ModelFlag = None,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="REPOSITORY@DIGEST", help="Compare with this; default: the image built here."),
    ] = None,
    project: ProjectFlag = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 6 if deployed and local differ, for scripts.")
    ] = False,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> int:
    """Show what is live, and whether that is what is here:  mlinfer status

    It compares the model, the configuration, and the image where the Docker Engine has it. It also shows what is missing in AWS or was changed there by somebody else.
    """
    from ...cloud import status as step
    from ...cloud.drift import find_drift

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(model=model, project=project)
    session = aws_session(terminal, region, profile)
    there = step.read_status(session.client("lambda"), Names(config.project))
    here = _wanted_here(config, session, there, image)
    differs = step.differences(there, here, config.url) if here else None
    clients = replace(_clients(session), ecr=session.client("ecr"))
    drift = find_drift(clients, _account(session), Names(config.project), there, config.kms_key)
    drifted = any(found.mended for found in drift)
    facts = {**there.facts(), "as_here": None if here is None else not (differs or drifted), "difference": differs}
    facts["image_compared"] = bool(here and here.image)
    facts["drift"] = [found.as_json() for found in drift]
    if as_json:
        terminal.document(facts)
    else:
        left_out = ("difference", "image_compared", "drift")
        terminal.rows(
            [(name.replace("_", " "), _in_words(value)) for name, value in facts.items() if name not in left_out]
        )
        for found in drift:
            terminal.note(f"{found.resource} {found.name}: {found.problem}: {found.detail}")
            if found.difference:
                terminal.note("\n".join(f"    {line}" for line in found.difference.splitlines()))
        if drifted:
            terminal.note("To repair what is missing or was changed in AWS: mlinfer deploy")
        equal = "The deployed configuration equals the local one." if drift else "What is live is what is here."
        told = f"What is live differs from what is here:\n{differs}" if differs else equal
        terminal.note(told if here else "Not compared: the configured model file is not here.")
        if here and not here.image:
            terminal.note(
                "The image was not compared: it is not built here, or the Docker Engine or ECR does not tell."
            )
    if exit_code and here is None:
        _require_model(config)
    return DIFFERS if exit_code and (differs or drifted) else 0


@app.command()
def rollback(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Number; default: the one before the live one.")
    ] = None,
    model: ModelFlag = None,
    project: ProjectFlag = None,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Send the traffic back to an older version, once it has been proved:  mlinfer rollback

    Without VERSION a second rollback changes nothing, since the first may have been cut short; to go further back name the version. The answers are compared with those of the version's own model file here, which is fetched from S3 if the configured one is another. Of a model that is in the image alone, it is proved that the version answers with that model, twice the same.
    """
    from ...cloud import rollback as step
    from ...targets import embedded as predict

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(model=model, project=project)
    session = aws_session(terminal, region, profile)
    made = step.rollback(
        _clients(session),
        _account(session),
        Names(config.project),
        version or "",
        _model_here(config),
        lambda path: predict.embedded(replace(config, model=str(path)), log=terminal.detail),
        _waiter(terminal),
        partial(_show_step, terminal, dry_run=False),
    )
    _show_rollback(terminal, made)


@app.command()
def destroy(
    bucket: Annotated[str | None, typer.Option("--bucket", help="S3 bucket of the models.", show_default=False)] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Prefix of the keys.", show_default=False)] = None,
    keep_model: Annotated[bool, typer.Option("--keep-model", help="Keep the models, and the bucket.")] = False,
    yes: YesFlag = False,
    project: ProjectFlag = None,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> int:
    """Remove all of this project's in AWS, listed first:  mlinfer destroy

    Of the bucket, only what `mlinfer` made: staged pictures; and in a bucket with this project's tag, the models and, if it is empty then, the bucket. Without --bucket it is the one that the function, or its role, uses.
    """
    from ...cloud import destroy as step

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(bucket=bucket, prefix=prefix, project=project)
    report_unused(terminal, config, "--keep-model keeps the models", prefix=prefix if keep_model else None)
    session = aws_session(terminal, region, profile, *([partial(_require_project, config)] if yes else []))
    services = ("lambda", "iam", "logs", "ecr", "s3")
    clients = step.Clients(*(session.client(service) for service in services))
    names, waiter = Names(config.project), _waiter(terminal)
    account = _account(session)
    in_use = config.bucket or step.bucket_in_use(clients.functions, clients.iam, names)
    things = step.find(clients, account, names, in_use, config.prefix, waiter, keep_model=keep_model)
    if not in_use:
        terminal.note("S3 was not looked at, because no bucket is named: --bucket, or bucket in mlinfer.toml.")
    for thing in things:
        terminal.note(f"{thing.kind:<10} {thing.name}  ({thing.detail})")
    things = [thing for thing in things if not step.is_foreign(thing)]
    if not yes and not all(thing.left for thing in things):
        _agree_to_removal(terminal, config, account)
    removals = [_shown(terminal, step.remove(thing)) for thing in things]
    document = {"project": config.project, "things": [_removal_facts(removal) for removal in removals]}
    if error := step.left_behind(removals):
        terminal.error(error, beside=document)
        return error.exit_code
    if as_json:
        terminal.document(document)
    if not things:
        terminal.note(f"There is nothing of the project {config.project}.")
    return 0


def _agree_to_public(terminal: Terminal, config: Config, *, asked: bool) -> None:
    """Ask before the world may call the function. Raises UsageError."""
    if config.url == "public" and asked:
        question = "A public URL lets anybody call the function, at your cost. Go on?"
        if not terminal.confirm(question):
            hint = "To go on without being asked: mlinfer deploy --url public --yes. With --url iam callers must sign."
            raise UsageError("not_confirmed", "a public URL was not agreed to, and nothing was changed", hint)


def _agree_to_removal(terminal: Terminal, config: Config, account: Account) -> None:
    """Ask before what was listed is removed. Raises UsageError."""
    whose = f"project {config.project} in account {account.id}, Region {account.region}"
    if not terminal.confirm(f"Remove all of this from {whose}? You cannot undo it."):
        hint = f"To remove it without a question: mlinfer destroy --yes --project {config.project}"
        raise UsageError("not_confirmed", f"the removal of {whose} was not confirmed; nothing was changed", hint)


def _shown(terminal: Terminal, removal: Removal) -> Removal:
    terminal.note(f"{removal.thing.kind:<10} {f'kept: {removal.kept}' if removal.kept else 'removed'}")
    return removal


def _removal_facts(removal: Removal) -> dict[str, Any]:
    thing, outcome = removal.thing, "kept" if removal.kept else "removed"
    return {"kind": thing.kind, "name": thing.name, "outcome": outcome, "reason": removal.kept or None}


def _wanted_here(config: Config, session: Session, there: Status, image: str | None) -> Wanted | None:
    """Return what `deploy` would make of what is here; None where there is no model file. Raises MlinferError."""
    from ...cloud import deploy
    from ...cloud.resources.role import role_arn

    file = _model_here(config)
    if file is None:
        return None
    if not config.bucket:  # it was given by a flag of deploy, so there is none here to differ from
        config = replace(config, bucket=there.bucket)
    order = deploy.Order(config, file, _account(session))
    role = role_arn(session.client("iam"), order.account, order.names)
    return deploy.wanted(order, _by_digest(image) if image else _image_here(config, session), role)


def _image_here(config: Config, session: Session) -> str:
    """Return how ECR names the image that is built here, or would once it is pushed; "" where nobody can tell."""
    from ...clients import docker as engine
    from ...container_image import registry

    try:
        docker, tag = engine.connect(os.environ), image_recipe(config).tag()
        if docker.find_image(tag) is None:
            return ""
        return registry.plan(docker, session.client("ecr"), Names(config.project), tag, config.arch).uri
    except MlinferError:
        return ""


def _model_here(config: Config) -> ModelFile | None:
    """Return the configured model file; None where it is not."""
    from ...model import modelfile
    from ...targets import embedded as predict

    try:
        return modelfile.read_model_file(predict.model_path(config))
    except MissingError:
        return None


def _account(session: Session) -> Account:
    """Return whose credentials these are. Raises MlinferError."""
    from ...clients import aws

    return aws.find_account(session.client("sts"))


def _needs(config: Config, *, docker: bool) -> list[Callable[[], object]]:
    """Return the checks of what a deployment needs here, AWS aside."""
    from ...clients import docker as engine

    connect = [lambda: engine.connect(os.environ)] if docker else []
    return [lambda: _require_bucket(config), lambda: _require_model(config), *connect]


def _require_project(config: Config) -> None:
    if config.origins["project"] == "default":
        message = f"--yes needs an explicit project: {config.project} is only the name of this folder"
        raise UsageError("no_project", message, f"Name it: mlinfer destroy --yes --project {config.project}")


def _require_bucket(config: Config) -> None:
    if config.model_source == "s3" and not config.bucket:
        hint = "Name a bucket with --bucket (--create-bucket makes it), or add --model-source image."
        raise UsageError("no_bucket", "no S3 bucket is named for the model", hint)


def _require_model(config: Config) -> None:
    from ...targets import embedded as predict

    predict.model_path(config)


def _agree_to_starter(order: Order, session: Session) -> None:
    """Refuse to replace another model by the starter that nobody named. Raises UsageError."""
    from ...cloud import status

    served = status.served_model(session.client("lambda"), order.names)
    if served and served != order.file.sha256:
        message = f"function {order.names.function} serves another model ({served[:12]}), and no model is named here"
        hint = "Name yours with --model FILE. To deploy the built-in model: mlinfer deploy --model starter"
        raise UsageError("starter_not_named", message, hint)


def _order(config: Config, session: Session, *, create_bucket: bool, dry_run: bool) -> Order:
    from ...cloud import deploy
    from ...model import modelfile
    from ...targets import embedded as predict

    file = modelfile.read_model_file(predict.model_path(config))
    return deploy.Order(config, file, _account(session), create_bucket, dry_run)


def _clients(session: Session) -> Clients:
    from ...cloud.deploy import Clients

    functions, iam, logs, s3 = (session.client(service) for service in ("lambda", "iam", "logs", "s3"))
    return Clients(functions, iam, logs, s3, lambda seconds: session.client("lambda", read_timeout=seconds))


def _waiter(terminal: Terminal) -> Waiter:
    from ...clients.waiter import Waiter

    return Waiter(time.sleep, terminal.note)


@dataclass(frozen=True)
class _Given:
    """An image that was pushed before."""

    uri: str
    outcome: Outcome = "unchanged"


def _by_digest(uri: str) -> str:
    """Return an image's name that says which bytes it means. Raises UsageError."""
    if not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", uri):
        hint = "It ends in @sha256: and 64 digits, as `mlinfer push` prints it: a tag can come to mean another image."
        raise UsageError("invalid_value", f"--image is {uri!r}, not an image by its digest", hint)
    return uri


def _build_and_push(terminal: Terminal, order: Order, session: Session) -> PushedImage:
    """Build the image and push it, unless that is done; in a dry run say whether it is. Raises MlinferError."""
    from ...clients import docker as engine
    from ...container_image import registry
    from .registry import push_image

    docker, ecr = engine.connect(os.environ), session.client("ecr")
    if order.dry_run:
        return registry.plan(docker, ecr, order.names, image_recipe(order.config).tag(), order.config.arch)
    _, pushed = push_image(terminal, docker, ecr, order.config)
    return _Given(pushed.uri, "made" if pushed.outcome == "pushed" else "unchanged")


def _show_step(terminal: Terminal, step: Step, *, dry_run: bool) -> None:
    """Write the line of a step that has ended; in a plan, with what would change."""
    outcome = _outcome(step, dry_run=dry_run).replace("_", " ")
    write = terminal.text if dry_run and not terminal.as_json else terminal.note  # a plan is the result
    detail = re.sub("([0-9a-f]{12})[0-9a-f]{52}", r"\1...", step.change.detail)
    took = "" if dry_run else f" {step.seconds:>6.1f} s"
    write(printable(f"{step.name:<10} {outcome:<{12 if dry_run else 10}}{took}  {detail}".rstrip()))
    if dry_run and step.change.difference:
        write(printable("\n".join(f"    {line}" for line in step.change.difference.splitlines())))


def _outcome(step: Step, *, dry_run: bool) -> str:
    plan = {"made": "would_create", "changed": "would_change"} if dry_run else {}
    return plan.get(step.change.outcome, step.change.outcome)


def _show_deployment(terminal: Terminal, order: Order, made: Deployment) -> None:
    """End by saying how to call what is live."""
    if terminal.as_json:
        terminal.document(_as_document(order, made))
        return
    if order.dry_run:
        terminal.note("Nothing was changed. Without --dry-run it is.")
        return
    if made.url:
        terminal.text(made.url)
    terminal.note(f"Live: version {made.version} of {made.function}, proved. Ask it:")
    terminal.note("  mlinfer predict cat.jpg --target aws")
    if made.url and order.config.url == "public":
        terminal.note(f"  curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' {made.url}")


def _show_rollback(terminal: Terminal, made: Rollback) -> None:
    if terminal.as_json:
        facts = {"function": made.function, "version": made.version, "before": made.before}
        terminal.document({**facts, "steps": _steps(made.steps)})
    if made.done_before:
        terminal.note(f"Version {made.version} is live already: it was rolled back to from version {made.before}.")
        terminal.note("To go further back, name the version: mlinfer rollback VERSION")
    elif made.version == made.before:
        terminal.note(f"Version {made.version} is live already.")
    else:
        terminal.note(f"Live: version {made.version} of {made.function}, proved; before: {made.before}.")


def _as_document(order: Order, made: Deployment) -> dict[str, Any]:
    facts = {"function": made.function, "alias": made.alias, "version": made.version, "image": made.image}
    more: dict[str, Any] = {"model": made.model, "url": made.url or None, "dry_run": order.dry_run}
    return {**facts, **more, "steps": _steps(made.steps, dry_run=order.dry_run)}


def _steps(done: Sequence[Step], *, dry_run: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "name": step.name,
            "outcome": _outcome(step, dry_run=dry_run),
            "detail": step.change.detail,
            "seconds": step.seconds,
        }
        | ({"difference": step.change.difference} if step.change.difference else {})
        for step in done
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}={text}" for name, text in value.items())
    return {True: "yes", False: "no", None: "(none)"}[value] if value is None or isinstance(value, bool) else str(value)
