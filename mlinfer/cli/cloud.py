"""The commands of the function's life in AWS: deploy, status, rollback, destroy."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import Config
from ..errors import UsageError
from ..terminal import Terminal
from .container import ArchFlag, ModelSourceFlag
from .options import JsonFlag, ModelFlag, ProfileFlag, QuietFlag, RegionFlag, VerboseFlag, app, configuration

if TYPE_CHECKING:
    from ..changes import Outcome
    from ..deploy import Clients, Deployment, Order, PushedImage, Step

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
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Bring model and image to Lambda, prove the answer, go live:  mlinfer deploy --bucket my-models --create-bucket

    Each step changes only what differs; run again, it finishes what was cut short. Traffic moves to the new version only when this has answered sample pictures as the model does here.
    """
    from .. import deploy as step
    from .. import predict

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
    )
    _agree_to_public(terminal, config, asked=not (yes or dry_run))
    embedded = predict.embedded(config, log=terminal.detail)
    order = _order(config, region, profile, create_bucket=create_bucket, dry_run=dry_run)
    report = partial(_show_step, terminal, dry_run=dry_run)
    made = step.deploy(
        order,
        _clients(region, profile),
        partial(_image, image),
        embedded,
        _patience(terminal),
        report,
        terminal.bytes_bar,
    )
    _show_deployment(terminal, order, made)


def _agree_to_public(terminal: Terminal, config: Config, *, asked: bool) -> None:
    """Ask before the world may call the function. Raises UsageError."""
    if config.url == "public" and asked:
        question = "A public URL lets anybody call the function, at your cost. Go on?"
        if not terminal.confirm(question):
            hint = "To go on without being asked: mlinfer deploy --url public --yes. With --url iam callers must sign."
            raise UsageError("not_confirmed", "a public URL was not agreed to, and nothing was changed", hint)


def _order(config: Config, region: str | None, profile: str | None, *, create_bucket: bool, dry_run: bool) -> Order:
    from .. import aws, deploy, modelfile, predict

    if config.model_source == "s3" and not config.bucket:
        hint = (
            "Name one with --bucket (with --create-bucket it is made), or put it into the image: --model-source image"
        )
        raise UsageError("no_bucket", "no S3 bucket is named for the model", hint)
    file = modelfile.read_model_file(predict.model_path(config))
    account = aws.find_account(aws.make_client("sts", region=region, profile=profile, needs_region=True))
    return deploy.Order(config, file, account, create_bucket, dry_run)


def _clients(region: str | None, profile: str | None) -> Clients:
    from .. import aws
    from ..deploy import Clients

    make = partial(aws.make_client, region=region, profile=profile, needs_region=True)
    invoker = lambda seconds: make("lambda", read_timeout=seconds)  # noqa: E731
    return Clients(make("lambda"), make("iam"), make("logs"), make("s3"), invoker)


def _patience(terminal: Terminal) -> Any:
    from ..waiting import Patience

    return Patience(time.sleep, terminal.note)


@dataclass(frozen=True)
class _Given:
    """An image that was pushed before."""

    uri: str
    outcome: Outcome = "unchanged"


def _image(given: str | None) -> PushedImage:
    """Return the image that was named; or build and push one. Raises MlinferError."""
    if given is None:
        raise NotImplementedError
    if not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", given):
        hint = "It ends in @sha256: and 64 digits, as `mlinfer push` prints it: a tag can come to mean another image."
        raise UsageError("invalid_value", f"--image is {given!r}, not an image by its digest", hint)
    return _Given(given)


def _show_step(terminal: Terminal, step: Step, *, dry_run: bool) -> None:
    """Write the line of a step that has ended; in a plan, with what would change."""
    words = {"made": "would be made", "changed": "would be changed"} if dry_run else {}
    outcome = words.get(step.change.outcome, step.change.outcome)
    terminal.note(
        f"{step.name:<10} {outcome:<{17 if dry_run else 10}} {step.seconds:>6.1f} s  {step.change.detail}".rstrip()
    )
    if dry_run and step.change.difference:
        terminal.note("\n".join(f"    {line}" for line in step.change.difference.splitlines()))


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


def _as_document(order: Order, made: Deployment) -> dict[str, Any]:
    steps = [
        {"name": step.name, "outcome": step.change.outcome, "detail": step.change.detail, "seconds": step.seconds}
        | ({"difference": step.change.difference} if step.change.difference else {})
        for step in made.steps
    ]
    facts = {"function": made.function, "alias": made.alias, "version": made.version, "image": made.image}
    return {**facts, "model": made.model, "url": made.url or None, "dry_run": order.dry_run, "steps": steps}
