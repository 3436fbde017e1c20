"""The commands that measure: bench, tune."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ...config import COMMAND_LINE, FILE_NAME, Config, with_value
from ...errors import MlinferError, UsageError, VerificationError
from ...files import file_lock, write_whole
from ...names import ALIAS, Names
from ...targets.answers import MAX_REQUEST_BYTES, NamedModel, require_model
from ...terminal import Terminal
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
    model_words,
    report_unused,
)
from ..views.measurements import draw_report, draw_tuning, show_report, show_tuning
from .container import ArchFlag, ModelSourceFlag, build_image, image_recipe, local_function, s3_environment
from .predict import SLACK_S, read_image

if TYPE_CHECKING:
    from ...container_image.docker_build import Built
    from ...measure.bench import Figures
    from ...measure.instance import Sample, Start
    from ...measure.prices import Prices
    from ...measure.tune import Trial

T = TypeVar("T")

SHARE = 0.01
NEW_ACCOUNTS_MB = 3008  # what they may have at most

ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[IMAGE]...", help="What to ask about, in turn; default: a drawn 500 x 375 JPEG."),
]
ShareFlag = Annotated[
    float, typer.Option("--cold-share", min=0.0, max=1.0, help="How many of all predictions meet a cold start: 0 to 1.")
]
PricesFlag = Annotated[
    str | None,
    typer.Option("--prices", metavar="FILE", help="Price table; default: the package's, dated.", show_default=False),
]
PlotFlag = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.svg|png", help="Draw the figures.", show_default=False)
]
FromS3Flag = Annotated[
    bool, typer.Option("--from-s3", help="Target local: let the function fetch the uploaded model, as in Lambda.")
]


@dataclass(frozen=True)
class Place:
    """Where the function is measured. start: starts instances with so much memory. image: None where there is none."""

    start: Callable[[int], Start]
    memory: int
    arch: str
    image: Built | None = None


@app.command()
def bench(
    images: ImagesArgument = None,
    model: ModelFlag = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="embedded|local|aws", help="What to measure.", show_default=False),
    ] = None,
    cold: Annotated[int, typer.Option("--cold", min=0, metavar="N", help="Cold starts, each of a new instance.")] = 5,
    warm: Annotated[int, typer.Option("--warm", min=0, metavar="N", help="Warm requests, to the last instance.")] = 50,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, max=64, help="Warm requests at once, of target aws.")
    ] = 1,
    memory: Annotated[int | None, typer.Option("--memory", metavar="MB", help="Of the function.")] = None,
    arch: ArchFlag = None,
    model_source: ModelSourceFlag = None,
    from_s3: FromS3Flag = False,
    cold_share: ShareFlag = SHARE,
    prices: PricesFlag = None,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write every request.", show_default=False)
    ] = None,
    plot: PlotFlag = None,
    project: ProjectFlag = None,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> int:
    """Measure cold starts, warm requests and their cost:  mlinfer bench --target local

    Ctrl-C ends it early, with what there is by then. The figures hold for the machine that they name.
    """
    from ...measure import bench as step
    from ...measure.machine import describe

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(
        model=model, target=target, memory=memory, arch=arch, model_source=model_source, prices=prices, project=project
    )
    _check(config.target, concurrency=concurrency, from_s3=from_s3, files=(table, plot), plot=plot)
    if not cold + warm:
        raise UsageError("usage", "--cold 0 with --warm 0 measures nothing", "Leave out one of them.")
    _report_unused(terminal, config, from_s3=from_s3, project=project, region=region, profile=profile)
    report_unused(terminal, config, "there are no warm requests", concurrency=concurrency > 1 and not warm)
    amount, costs, machine = step.Amount(cold, warm, concurrency), _prices(config), describe(_runtime(config))
    named, bodies = _named(config), _questions(config, images or [])
    samples: list[Sample] = []
    with (
        _place(terminal, config, region, profile, from_s3=from_s3, cold=cold) as place,
        closing(step.measure(place.start(place.memory), bodies, amount)) as measured,
    ):
        ended = _gather(terminal.track(_answered(measured, named, config), cold + warm, "Measuring"), samples)
    report = step.Report(
        target=config.target,
        complete=ended is None,
        error=ended.as_json() if ended else None,
        memory=place.memory,
        arch=place.arch,
        amount=amount,
        pictures=len(bodies),
        cold_share=cold_share,
        prices=costs,
        figures=step.figures(samples, costs, place.memory, place.arch, cold_share),
        image_bytes=place.image.bytes if place.image else None,
        layer_bytes=sum(place.image.layers.values()) if place.image else None,
        machine=machine,
    )
    if table:  # before stdout, whose reader can be gone
        write_whole(table, step.table(samples))
    if plot and samples:
        draw_report(plot, samples, report)
    show_report(terminal, report)
    return _exit_code(terminal, ended)


@app.command()
def tune(
    images: ImagesArgument = None,
    model: ModelFlag = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="local|aws", help="What to measure.", show_default=False)
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="MB,...", help="Sizes; default: those that this machine can give.", show_default=False
        ),
    ] = None,
    cold: Annotated[
        int, typer.Option("--cold", min=1, metavar="N", help="Cold starts at each size, in each round.")
    ] = 3,
    warm: Annotated[
        int, typer.Option("--warm", min=1, metavar="N", help="Warm requests at each size, in each round.")
    ] = 30,
    max_latency: Annotated[
        float | None,
        typer.Option("--max-latency-ms", min=0.0, help="What the warm p90 may take.", show_default=False),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the recommendation to mlinfer.toml.")] = False,
    arch: ArchFlag = None,
    model_source: ModelSourceFlag = None,
    from_s3: FromS3Flag = False,
    cold_share: ShareFlag = SHARE,
    prices: PricesFlag = None,
    plot: PlotFlag = None,
    project: ProjectFlag = None,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> int:
    """Find the memory size to take:  mlinfer tune --max-latency-ms 50 --apply

    It recommends the cheapest size whose warm p90 is within --max-latency-ms; without that, within 1.5 times the fastest's. It measures in rounds, until the recommendation stands; Ctrl-C shows what there is by then.
    """
    from ...measure import bench as bench_step
    from ...measure import tune as step
    from ...measure.machine import describe

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = _tuned(
        configuration(model=model, target=target, arch=arch, model_source=model_source, prices=prices, project=project)
    )
    _check(config.target, concurrency=1, from_s3=from_s3, files=(plot,), plot=plot)
    _report_unused(terminal, config, from_s3=from_s3, project=project, region=region, profile=profile)
    costs, machine, limit_s = (
        _prices(config),
        describe(_runtime(config)),
        None if max_latency is None else max_latency / 1000,
    )
    named, bodies = _named(config), _questions(config, images or [])
    sizes = _sizes(terminal, config, memory)
    trials: list[Trial] = []
    with (
        _place(terminal, config, region, profile, from_s3=from_s3, cold=cold) as place,
        terminal.progress("Measuring") as tell,
    ):

        def measure(size: int) -> Iterator[Sample]:
            tell(f"{size} MB, after {len(trials)} requests")
            measured = bench_step.measure(place.start(size), bodies, bench_step.Amount(cold, warm))
            return _answered(measured, named, config)

        def figures(size: int, samples: Sequence[Sample]) -> Figures:
            return bench_step.figures(samples, costs, size, place.arch, cold_share)

        judge = step.Judge(figures, limit_s)
        with closing(step.tune(sizes, measure, judge)) as tried:
            ended = _gather(tried, trials)
    points, decided = judge.points(trials), ended is None and judge.stands(trials)
    chosen = step.recommend(points, limit_s) if decided else None
    sentence = step.say(points, chosen, limit_s) if decided else step.say_undecided(judge.picks(trials))
    if ended:
        sentence = step.say_incomplete(points, len(sizes))
    tuning = step.Tuning(
        target=config.target,
        complete=ended is None,
        error=ended.as_json() if ended else None,
        model=next((trial.sample.model for trial in trials if trial.sample), {}),
        arch=place.arch,
        cold_share=cold_share,
        prices=costs,
        rounds=max((trial.round for trial in trials), default=0),
        points=points,
        decided=decided,
        recommended=chosen,
        sentence=sentence,
        machine=machine,
    )
    if plot and any(not point.failure for point in points):  # before stdout, whose reader can be gone
        draw_tuning(plot, tuning)
    if apply and chosen:
        _apply(terminal, chosen.memory)
    show_tuning(terminal, tuning)
    if ended:
        return _exit_code(terminal, ended)
    return 0 if chosen else VerificationError.exit_code


def _check(target: str, *, concurrency: int, from_s3: bool, files: Sequence[Path | None], plot: Path | None) -> None:
    """Refuse, before anything is measured, what could not be done afterwards. Raises UsageError, MissingError."""
    if concurrency > 1 and target != "aws":
        message = f"--concurrency goes with --target aws; {target} answers one request at a time"
        raise UsageError("usage", message, "Leave it out.")
    if from_s3 and target != "local":
        raise UsageError("usage", "--from-s3 goes with --target local", "Leave it out.")
    for file in filter(None, files):
        if not file.parent.is_dir():
            raise UsageError("no_such_folder", f"there is no folder {file.parent} for {file.name}", "Make it first.")
    if plot:
        from ...measure.plot import check

        check(plot)


def _report_unused(
    terminal: Terminal, config: Config, *, from_s3: bool, project: str | None, region: str | None, profile: str | None
) -> None:
    """Refuse what has no effect on the target. Raises UsageError."""
    aws = {"region": region, "profile": profile}
    if config.target == "embedded":
        report_unused(terminal, config, "target embedded is this process", "model_source", project=project, **aws)
    elif config.target == "aws":
        keys = ("arch", "model_source", *(["memory"] if config.origins["memory"] != COMMAND_LINE else []))
        report_unused(terminal, config, "target aws is measured as it is deployed", *keys)
    elif not from_s3:
        report_unused(terminal, config, "without --from-s3 the function uses no AWS", **aws)


def _prices(config: Config) -> Prices:
    from ...measure import prices

    return prices.read_prices(Path(config.prices) if config.prices else prices.TABLE)


def _runtime(config: Config) -> str:
    """Return what the function runs on; "" for this very Python."""
    from ...model.runtime import IMAGE_ONNXRUNTIME

    image = f"{config.base_image}, onnxruntime {IMAGE_ONNXRUNTIME}"
    return {"embedded": "", "local": image, "aws": "asking AWS Lambda"}[config.target]


def _questions(config: Config, images: Sequence[str]) -> list[bytes]:
    """Return the requests; but for aws, the configured model has answered each in this process. Raises MlinferError."""
    from ...model import samples
    from ...targets import embedded

    found = [embedded.Picture(name, partial(read_image, name)) for name in images]
    found = found or [embedded.Picture("drawn.jpg", samples.draw_jpeg)]
    pictures = [embedded.Picture(picture.name, partial(bytes, embedded.read(picture))) for picture in found]
    if config.target != "aws":
        for result in embedded.predict(pictures, embedded.embedded(config, log=lambda _: None), config.top_k):
            if result.error:
                raise result.error
    bodies = [json.dumps(embedded.event(picture.read(), config.top_k)).encode() for picture in pictures]
    largest = max(map(len, bodies))
    if largest > MAX_REQUEST_BYTES and config.target != "embedded":
        raise UsageError("usage", f"a picture makes a request of {largest:,} bytes; Lambda takes 6 MB", "Reduce it.")
    return bodies


def _named(config: Config) -> NamedModel | None:
    """Return the model that must answer in AWS, if one is named: here it is started with that model. Raises MissingError."""
    from ...targets import embedded

    if config.target != "aws":
        return None
    return embedded.named_model(config, f"Deploy it: mlinfer deploy{model_words(config)}")


def _answered(samples: Iterable[Sample], named: NamedModel | None, config: Config) -> Iterator[Sample]:
    """Pass the samples on while the named model answers. Raises VerificationError."""
    for sample in samples:
        require_model(sample.model, named, config.target)
        yield sample


@contextmanager
def _place(
    terminal: Terminal, config: Config, region: str | None, profile: str | None, *, from_s3: bool, cold: int
) -> Iterator[Place]:
    """Return where the function is measured; what that needs is gone afterwards. Raises MlinferError."""
    if config.target == "embedded":
        from ...measure import process

        start = partial(process.start, config, os.environ, terminal.detail)
        yield Place(lambda _: start, config.memory, config.arch)
    elif config.target == "local":
        credentials = s3_environment(terminal, config, region, profile) if from_s3 else {}
        with _local_place(terminal, config, credentials, from_s3=from_s3) as place:
            yield place
    else:
        with _cloud_place(terminal, config, region, profile, cold=cold) as place:
            yield place


@contextmanager
def _local_place(terminal: Terminal, config: Config, credentials: dict[str, str], *, from_s3: bool) -> Iterator[Place]:
    from ...clients import docker as engine
    from ...local import address, container
    from ...local.ports import free
    from ...measure import container as emulated

    docker = engine.connect(os.environ)
    container.require_local(docker)
    built = build_image(terminal, docker, image_recipe(config))

    def start_with(memory: int) -> Start:
        for note in container.shortage(memory, docker.machine()):
            terminal.note(note)
        chosen = replace(config, memory=memory, port=free(address.HOST))
        function = local_function(chosen, built.tag, credentials, from_s3=from_s3)
        return partial(emulated.start, docker, function, terminal.detail)

    with file_lock(f"mlinfer-bench-{config.project}"):
        container.stop(docker, config.project, container.FRESH_LABEL)  # what a killed command has left
        yield Place(start_with, config.memory, config.arch, built)


@contextmanager
def _cloud_place(
    terminal: Terminal, config: Config, region: str | None, profile: str | None, *, cold: int
) -> Iterator[Place]:
    """Without cold starts, ask what is live and change nothing; else borrow $LATEST."""
    from ...clients import aws
    from ...clients.waiter import Waiter
    from ...cloud.resources import function
    from ...measure import live as latest
    from ...targets import aws as invoke

    session = aws_session(terminal, region, profile)
    names, functions, waiter = Names(config.project), session.client("lambda"), Waiter(time.sleep, terminal.note)
    given = config.memory if config.origins["memory"] == COMMAND_LINE else 0
    invoker = session.client("lambda", read_timeout=invoke.live_timeout(functions, names) + SLACK_S)
    if not cold:
        if given:
            message = "--memory needs cold starts with --target aws: what is live has the memory that it has"
            raise UsageError("usage", message, "Leave out --memory, or --cold 0.")
        with aws.explained(f"the function {names.function}", "lambda:GetFunction on the function"):
            live = function.wait_until_ready(functions, names, waiter, ALIAS).settings
        asked = latest.Latest(invoker, names, ALIAS, waiter, terminal.detail)
        yield Place(lambda _: lambda: nullcontext(asked), live.memory, live.arch)
        return
    with latest.borrow(functions, names, waiter, terminal.note) as before:
        terminal.note(f"Measuring $LATEST of {names.function}; what is live is left alone.")

        def start_with(memory: int) -> Start:
            return partial(latest.start, functions, invoker, names, before, memory, waiter, terminal.detail)

        yield Place(start_with, given or before.memory, before.arch)


def _gather(items: Iterable[T], found: list[T]) -> MlinferError | None:
    """Keep each item as it comes; return what ended them early, Ctrl-C or a failure. Raises it if nothing came before."""
    try:
        for item in items:
            found.append(item)
    except KeyboardInterrupt:
        return _InterruptedError("interrupted", "interrupted")
    except MlinferError as error:
        if not found:
            raise
        return error
    return None


class _InterruptedError(MlinferError):
    exit_code = 130


def _exit_code(terminal: Terminal, ended: MlinferError | None) -> int:
    """Say what ended the measurement early, if something did, and return the exit code."""
    if ended and not isinstance(ended, _InterruptedError):
        terminal.failure(str(ended))
        terminal.note(ended.hint)
    return ended.exit_code if ended else 0


def _tuned(config: Config) -> Config:
    """Return the configuration with a target that has a memory size: local, unless another one was asked for."""
    if config.target != "embedded":
        return config
    if config.origins["target"] == COMMAND_LINE:
        raise UsageError("usage", "target embedded has no memory size to tune", "Take --target local or aws.")
    return replace(config, target="local")


def _sizes(terminal: Terminal, config: Config, given: str | None) -> list[int]:
    """Return the memory sizes to try: those given, or those that can be measured rightly here. Raises UsageError."""
    from ...measure import tune

    if given is not None:
        try:
            sizes = sorted({int(size) for size in given.split(",")})
        except ValueError as error:
            hint = "Write it like this: --memory 512,1024,1769"
            raise UsageError("invalid_value", f"--memory is {given!r}, not whole numbers with commas", hint) from error
        return [configuration(memory=size).memory for size in sizes]
    if config.target == "aws":
        return [size for size in tune.SIZES if size <= NEW_ACCOUNTS_MB]
    from ...clients import docker as engine

    cores = engine.connect(os.environ).machine().cores
    sizes = tune.sizes_for(cores)
    if left_out := [f"{size:,}" for size in tune.SIZES if size not in sizes]:
        terminal.note(
            f"Left out: {', '.join(left_out)} MB, which give more vCPUs in Lambda than this machine's {cores}."
        )
    return sizes


def _apply(terminal: Terminal, memory: int) -> None:
    """Write the memory size into mlinfer.toml, which keeps all else. Raises UsageError, MissingError."""
    path = Path(FILE_NAME)
    text = path.read_bytes().decode() if path.exists() else ""
    write_whole(path.resolve(), with_value(text, "memory", memory).encode())
    terminal.note(f"{FILE_NAME}: memory = {memory}.")
    origin = configuration().origins["memory"]
    if origin != FILE_NAME:
        terminal.note(f"{origin} overrides it.")
