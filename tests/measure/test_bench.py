"""`mlinfer bench` and `mlinfer tune`: measurements, costs and files, with the embedded target."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mlinfer.config import TARGETS
from mlinfer.errors import RemoteError
from mlinfer.measure.bench import figures
from mlinfer.measure.instance import PARTS, Sample, handlers_line, last_report
from mlinfer.measure.latency import percentile, summarize
from mlinfer.measure.prices import billed, per_million, read_prices
from mlinfer.measure.tune import Judge, Point, Trial, mark_best, recommend, say, say_undecided, sizes_for, tune

from ..conftest import CAT, Run

MlInfer = Callable[..., Run]
COMMAND = [sys.executable, "-m", "mlinfer"]
MODEL = {"name": "m", "sha256": "0" * 64}


def sample(seconds: float, *, cold: bool = False, started: float = 0.0, billed_s: float | None = None) -> Sample:
    """Return a request of that duration, all of it inference."""
    return Sample(cold, started, seconds, seconds if billed_s is None else billed_s, {"inference_s": seconds}, MODEL)


# bench


@pytest.mark.slow
def test_the_report(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """Cold starts and warm requests with their percentiles, throughput, memory, cost, model and machine."""
    run = mlinfer("bench", red, "--model", tiny_model, "--cold", "2", "--warm", "5")
    assert run.code == 0
    rows = {words[0]: words for line in run.out.splitlines() if (words := line.split())}
    assert rows["requests"] == ["requests", "2", "5"]
    for name in ("p50", "p90", "p99", "min", "max", "imports", "inference"):
        assert "ms" in rows[name]
    for name in ("throughput", "peak memory", "cost per million", "model"):
        assert any(line.startswith(name) for line in run.out.splitlines()), name
    assert "onnxruntime" in run.out
    assert "same machine" in run.err


WITHOUT_DOCKER_AND_AWS = {"embedded": (0, None), "local": (3, "docker_unreachable"), "aws": (3, "several_missing")}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_each_target_is_measured(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """Each target is opened, or the error says what this machine lacks for it."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    run = mlinfer("bench", "--target", target, "--cold", "0", "--warm", "1", "--json")
    code = (json.loads(run.out)["error"] or {}).get("code")
    assert (run.code, code) == WITHOUT_DOCKER_AND_AWS[target]


@pytest.mark.slow
def test_the_report_as_json(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """With --json everything is one document; the parts of a cold start and of a warm request add up to it."""
    report = json.loads(mlinfer("bench", red, "--model", tiny_model, "--cold", "2", "--warm", "3", "--json").out)
    assert (report["target"], report["complete"], report["percentiles"]) == ("embedded", True, "nearest rank")
    found = report["figures"]
    assert (found["cold"]["count"], found["warm"]["count"]) == (2, 3)
    assert found["model"]["name"] == "tiny"
    for kind in ("cold", "warm"):
        assert list(found[f"{kind}_parts"]) == list(PARTS)
        assert sum(found[f"{kind}_parts"].values()) == pytest.approx(found[kind]["p50_s"], abs=1e-4)
    assert min(found["cold_parts"][part] for part in ("start_s", "imports_s", "session_s", "inference_s")) > 0
    assert found["warm_parts"]["imports_s"] == 0
    assert found["cold"]["min_s"] > found["warm"]["p50_s"]
    assert found["peak_bytes"] > 2**24
    assert report["machine"]["cores"] >= 1
    assert report["prices"]["date"]


@pytest.mark.slow
def test_every_request_in_a_file(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """--csv writes one line per request, whose parts add up to its time."""
    assert mlinfer("bench", red, "--model", tiny_model, "--cold", "2", "--warm", "3", "--csv", "all.csv").code == 0
    with Path("all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["cold"] * 2 + ["warm"] * 3
    for row in rows:
        assert sum(float(row[part]) for part in PARTS) == pytest.approx(float(row["seconds"]), abs=1e-4)


@pytest.mark.slow
def test_files_are_written_before_stdout(tiny_model: Path, red: Path) -> None:
    """If the reader of stdout is gone, table and plot are still written."""
    flags = ["--model", str(tiny_model), "--cold", "1", "--warm", "1", "--csv", "a.csv", "--plot", "a.svg"]
    process = subprocess.Popen([*COMMAND, "bench", str(red), *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    process.stdout.close()
    process.communicate()
    assert process.returncode == 141
    assert len(Path("a.csv").read_text().splitlines()) == 3
    assert Path("a.svg").is_file()


@pytest.mark.slow
def test_pictures(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """--plot writes an SVG with its title, or a PNG."""
    command = ("bench", red, "--model", tiny_model, "--cold", "1", "--warm", "2", "--plot")
    assert mlinfer(*command, "a.svg").code == 0
    root = ElementTree.parse("a.svg").getroot()  # noqa: S314 - ours
    assert root.tag.endswith("svg")
    assert "tiny, embedded:" in Path("a.svg").read_text()
    assert mlinfer(*command, "a.png").code == 0
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_picture_without_the_extra(tiny_model: Path, red: Path) -> None:
    """Without matplotlib, --plot exits with 3 and the library's name before anything is measured."""
    code = "import sys; sys.modules['matplotlib'] = None; from mlinfer.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "bench", str(red), "--model", str(tiny_model), "--plot", "a.svg"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (3, "")
    assert "pip install matplotlib" in run.stderr


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--plot", "a.pdf"], 2, ".svg or .png"),
        (["--plot", "none/a.svg"], 2, "folder none does not exist"),
        (["--csv", "none/a.csv"], 2, "folder none does not exist"),
        (["--csv", ""], 2, "empty"),
        (["--csv", "."], 2, "regular file"),
        (["--csv", "same.svg", "--plot", "same.svg"], 2, "same file"),
        (["--cold-share", "nan"], 2, "--cold-share"),
        (["--cold-share", "nan", "--cold", "0"], 2, "--cold-share"),
        (["--concurrency", "2"], 2, "--target aws"),
        (["--from-s3"], 2, "--target local"),
        (["--prices", "none.toml"], 3, "none.toml does not exist"),
        (["--model", "none.onnx"], 3, "none.onnx"),
        (["none.jpg"], 5, "none.jpg does not exist"),
    ],
)
def test_refused_before_anything_is_measured(mlinfer: MlInfer, flags: list[str], code: int, message: str) -> None:
    """Invalid options and files are refused before anything is measured."""
    run = mlinfer("bench", *flags)
    assert (run.code, run.out) == (code, "")
    assert message in run.err


def test_a_limit_that_is_not_a_number(mlinfer: MlInfer) -> None:
    """`tune --max-latency-ms nan` is refused before anything is measured."""
    run = mlinfer("tune", "--memory", "512", "--max-latency-ms", "nan", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "invalid_value")


def test_a_file_for_the_figures_that_is_an_input(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """An image, a model or the configuration is never replaced, not even with --force."""
    model = Path("m.onnx")
    model.write_bytes(tiny_model.read_bytes())
    Path("mlinfer.toml").write_text("top_k = 3\n")
    Path("link.csv").symlink_to(red)
    before = {path: path.read_bytes() for path in (red, model, Path("mlinfer.toml"))}
    flags = [
        ["--csv", "red.png"],
        ["--csv", "m.onnx"],
        ["--csv", "mlinfer.toml"],
        ["--csv", "link.csv"],
        ["--plot", "red.png"],
    ]
    for given in flags:
        run = mlinfer("bench", red, "--model", model, *given, "--force", "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "would_replace_source"), given
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_file_for_the_figures_that_mlinfer_did_not_write(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """A foreign file is replaced only with --force; an empty file and earlier results need none."""
    command = ("bench", red, "--model", tiny_model, "--cold", "1", "--warm", "1", "--csv", "a.csv", "--plot", "a.png")
    Path("a.csv").touch()
    assert mlinfer(*command).code == 0
    assert mlinfer(*command).code == 0
    for name in ("a.csv", "a.png"):
        Path(name).write_text("mine")
        run = mlinfer(*command, "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "would_replace_file")
        assert Path(name).read_text() == "mine"
        assert mlinfer(*command, "--force").code == 0
        assert Path(name).read_bytes() != b"mine"


@pytest.mark.slow
def test_a_pipe_for_the_figures(mlinfer: MlInfer, red: Path) -> None:
    """A path that is not a regular file is refused before anything is measured."""
    os.mkfifo("pipe.csv")
    run = mlinfer("bench", red, "--csv", "pipe.csv", "--force", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "not_a_file")
    assert Path("pipe.csv").is_fifo()
    with Path("out.csv").open("wb") as out:
        command = [*COMMAND, "bench", str(red), "--csv", "/dev/stdout"]
        assert subprocess.run(command, stdout=out, stderr=subprocess.DEVNULL).returncode == 2


@pytest.mark.slow
def test_figures_that_cannot_be_written(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """If the file cannot be written in the end, the results are shown with the reason, and the exit code is 3."""
    folder = Path("folder")
    folder.mkdir()
    Path("link.csv").symlink_to("folder/none/a.csv")
    flags = ("--model", tiny_model, "--cold", "0", "--warm", "1", "--csv", "link.csv", "--json")
    run = mlinfer("bench", red, *flags)
    report = json.loads(run.out)
    assert (run.code, report["error"]["code"], report["figures"]["warm"]["count"]) == (3, "cannot_write", 1)
    assert report["complete"] is True


@pytest.mark.slow
def test_a_link_stays_a_link(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """Results are written through a link, and temporary names do not clash with other files."""
    Path("link.csv").symlink_to("real.csv")
    Path(".real.csv.part").write_text("precious")
    flags = ("--model", tiny_model, "--cold", "0", "--warm", "1", "--csv", "link.csv")
    assert mlinfer("bench", red, *flags).code == 0
    assert Path("link.csv").is_symlink()
    assert Path("real.csv").read_text().startswith("kind,")
    assert Path(".real.csv.part").read_text() == "precious"
    assert len(list(Path().glob(".*"))) == 1


def test_a_file_that_is_not_an_image(mlinfer: MlInfer) -> None:
    """An image that the model cannot classify exits with 5, without results."""
    Path("broken.jpg").write_text("no picture")
    run = mlinfer("bench", "broken.jpg")
    assert (run.code, run.out) == (5, "")


@pytest.mark.slow
def test_without_cold_starts_or_warm_requests(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """--cold 0 measures only warm requests, --warm 0 only cold starts; the cost needs both unless the share says otherwise."""
    flags = ("--model", tiny_model, "--json")
    warm = json.loads(mlinfer("bench", red, *flags, "--cold", "0", "--warm", "2").out)["figures"]
    assert (warm["cold"], warm["warm"]["count"], warm["per_million"]) == (None, 2, None)
    cold = json.loads(mlinfer("bench", red, *flags, "--cold", "1", "--warm", "0", "--cold-share", "1").out)["figures"]
    assert (cold["cold"]["count"], cold["warm"]) == (1, None)
    assert cold["per_million"] > 0


@pytest.mark.slow
def test_ctrl_c_shows_the_results_so_far(tiny_model: Path, red: Path) -> None:
    """Ctrl-C exits with 130, shows the results so far, writes complete files and leaves no process."""
    flags = ["--model", str(tiny_model), "--cold", "1", "--warm", "1000000", "--json", "--verbose", "--csv", "a.csv"]
    process = subprocess.Popen(
        [*COMMAND, "bench", str(red), *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    )
    assert process.stderr
    for _ in range(5):  # the handler's lines: it is warm now
        assert process.stderr.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    report = json.loads(output)
    assert process.returncode == 130
    assert report["complete"] is False
    assert report["figures"]["cold"]["count"] == 1
    assert report["figures"]["warm"]["count"] + 1 == len(Path("a.csv").read_text().splitlines()) - 1
    assert errors.decode().endswith("Interrupted.\n")


# What it costs


def test_cost_of_aws_examples() -> None:
    """The cost formula matches AWS's own examples before the free tier, https://aws.amazon.com/lambda/pricing/."""
    prices = read_prices()
    # 3 million requests of 120 ms at 1,536 MB: 540,000 GB-s, $9.00, and $0.60 for the requests.
    assert per_million(prices, [0.120], [], memory=1536, arch="x86_64", cold_share=0.0) == pytest.approx(
        (9.000018 + 0.60) / 3
    )
    # 3 million requests of 1 s at 512 MB: 1,500,000 GB-s, $25.00, and $0.60 for the requests.
    assert per_million(prices, [1.0], [], memory=512, arch="x86_64", cold_share=0.0) == pytest.approx(
        (25.00005 + 0.60) / 3
    )


def test_cost_of_cold_starts_and_architecture() -> None:
    """Cold starts count by their share with their billed time; arm64 has its own price."""
    # 99 % of 10 ms and 1 % of 500 ms are 14.9 ms, of 1 GB: 14,900 GB-s for a million.
    prices = read_prices()
    assert per_million(prices, [0.010], [0.400, 0.600], memory=1024, arch="x86_64", cold_share=0.01) == pytest.approx(
        0.20 + 14_900 * 0.0000166667
    )
    assert per_million(prices, [0.010], [0.400, 0.600], memory=1024, arch="arm64", cold_share=0.01) == pytest.approx(
        0.20 + 14_900 * 0.0000133334
    )


def test_billed_time_is_rounded_up() -> None:
    """The billed time is rounded up to whole milliseconds."""
    assert [billed(s) for s in (0.0, 0.0001, 0.001, 0.0010001, 0.12)] == [0.0, 0.001, 0.001, 0.002, 0.12]


@pytest.mark.slow
def test_custom_prices(mlinfer: MlInfer, tiny_model: Path, red: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag or the configuration names another price table; an invalid one is refused."""
    text = 'date = "2030-01-01"\nregion = "moon-1"\nrequest = 0.001\n[gb_second]\nx86_64 = 0.0\narm64 = 0.0\n'
    Path("moon.toml").write_text(text)
    flags = ("bench", red, "--model", tiny_model, "--cold", "1", "--warm", "1", "--json")
    report = json.loads(mlinfer(*flags, "--prices", "moon.toml").out)
    assert report["figures"]["per_million"] == pytest.approx(1000)
    monkeypatch.setenv("MLINFER_PRICES", "moon.toml")
    assert json.loads(mlinfer(*flags).out)["prices"]["region"] == "moon-1"
    Path("moon.toml").write_text(text.replace("0.001", '"cheap"'))
    assert mlinfer(*flags).code == 2


# What many requests come to


def test_percentiles_are_measured_values() -> None:
    """A percentile is a measured value: the nearest rank."""
    values = [float(i) for i in range(1, 101)]
    assert [percentile(values, p) for p in (50, 90, 99, 100)] == [50.0, 90.0, 99.0, 100.0]
    assert [percentile([1.0, 2.0, 3.0], p) for p in (0, 33, 34, 50, 99)] == [1.0, 1.0, 2.0, 2.0, 3.0]
    assert summarize([]) is None


def test_throughput_counts_the_time_in_which_requests_run() -> None:
    """Throughput counts only time in which requests run; parallel requests share it."""
    side_by_side = [sample(1.0, started=0.0), sample(1.0, started=0.5), sample(0.5, started=10.0)]
    assert figures(
        side_by_side, prices=read_prices(), memory=1769, arch="x86_64", cold_share=0.0
    ).throughput == pytest.approx(3 / 2.0)


def test_lambdas_own_report() -> None:
    """Lambda's REPORT line gives id, duration, billed duration, init and memory."""
    log = [
        "START RequestId: 1b Version: 3",
        '{"request_id": "1b", "cold_start": true, "load": {"imports_s": 0.5}}',
        "END RequestId: 1b",
        "REPORT RequestId: 1b\tDuration: 25.50 ms\tBilled Duration: 426 ms\tMemory Size: 1769 MB\t"
        "Max Memory Used: 140 MB\tInit Duration: 400.25 ms\t",
    ]
    report = last_report(log)
    assert report
    assert (report.request, report.peak_bytes) == ("1b", 140 * 2**20)
    assert (report.duration_s, report.billed_s, report.init_s) == pytest.approx((0.0255, 0.426, 0.40025))
    assert handlers_line(log)["load"] == {"imports_s": 0.5}
    assert last_report(log[:3]) is None


# tune


def test_the_frontier_and_the_recommendation() -> None:
    """The frontier has the sizes that no other beats; the recommendation is the cheapest within the limit, or within 1.5 times the fastest."""
    points = mark_best(
        [
            Point(512, 0.100, 1.0, 0.30),
            Point(1024, 0.050, 0.5, 0.32),
            Point(1769, 0.040, 0.3, 0.50),
            Point(3008, 0.045, 0.3, 0.90),
            Point(128, 0.0, 0.0, 0.0, failure="killed"),
        ]
    )
    assert [point.memory for point in points if point.best] == [512, 1024, 1769]
    for limit_s, memory in ((None, 1024), (0.045, 1769), (0.2, 512)):
        chosen = recommend(points, limit_s)
        assert chosen
        assert chosen.memory == memory
        assert f"Recommended: {memory:,} MB" in say(points, chosen, limit_s)
    assert recommend(points, 0.01) is None
    assert say(points, None, 0.01).endswith("10.0 ms. The fastest size is 1,769 MB with 40.0 ms.")


def test_sizes_that_a_machine_can_give() -> None:
    """Without --memory, only sizes whose CPU share the machine has are measured."""
    assert sizes_for(2) == [512, 1024, 1769, 3008]
    assert sizes_for(1) == [512, 1024, 1769]
    assert sizes_for(64)[-1] == 10240


def judged(latencies: dict[int, list[float]], limit_s: float | None = None) -> tuple[list[Trial], Judge]:
    """Return tune's result if each size takes these seconds in each round; 0 = it fails there."""
    rounds = {size: iter(values) for size, values in latencies.items()}

    def measure(size: int) -> Iterator[Sample]:
        seconds = next(rounds[size])
        if not seconds:
            raise RemoteError("out_of_memory", "the function ran out of memory")
        yield from [sample(seconds * 2, cold=True), sample(seconds)]

    prices = read_prices()
    judge = Judge(
        lambda size, samples: figures(samples, prices=prices, memory=size, arch="x86_64", cold_share=0.01), limit_s
    )
    return list(tune(list(latencies), measure, judge)), judge


def test_a_stable_recommendation() -> None:
    """Two rounds that agree decide; each size shows its p90 over both and the spread."""
    trials, judge = judged({512: [0.1, 0.2], 1769: [0.01, 0.012]})
    assert {trial.round for trial in trials} == {1, 2}
    assert judge.stands(trials)
    assert judge.pick(trials) == 1769
    small, _ = judge.points(trials)
    assert (small.latency_s, small.low_s, small.high_s, small.requests) == (0.2, 0.1, 0.2, 4)


def test_an_unstable_recommendation() -> None:
    """Rounds continue until the last two and all together agree; if they never do, nothing is decided."""
    quick, slow = 0.01, 0.1
    trials, judge = judged({512: [quick, slow, slow, slow], 1769: [quick] * 4})
    assert (judge.picks(trials), judge.stands(trials)) == ([512, 1769, 1769], True)
    trials, judge = judged({512: [quick, slow, quick, slow, quick], 1769: [quick] * 5})
    assert (judge.picks(trials), judge.stands(trials)) == ([512, 1769, 512, 1769, 512], False)
    told = say_undecided(judge.picks(trials))
    assert "512 MB in 3" in told
    assert "1,769 MB in 2" in told


def test_no_size_within_the_limit_is_a_decision() -> None:
    """Rounds that agree that no size is fast enough are a decision; so is a single size without a limit."""
    trials, judge = judged({512: [0.1, 0.1]}, limit_s=0.01)
    assert (judge.picks(trials), judge.stands(trials)) == ([None, None], True)
    trials, judge = judged({512: [0.1]})
    assert (judge.picks(trials), judge.stands(trials)) == ([512], True)


def test_a_size_that_the_function_fails_at() -> None:
    """A size that is too small is reported and skipped; another failure ends the search."""
    trials, judge = judged({128: [0.0], 512: [0.1, 0.1], 1769: [0.1, 0.1]})
    small, good, _ = judge.points(trials)
    assert (small.failure, good.failure, good.latency_s) == ("the function ran out of memory", "", 0.1)
    assert judge.pick(trials) == 512

    def measure(_: int) -> list[Sample]:
        raise RemoteError("access_denied", "you may not")

    with pytest.raises(RemoteError, match="may not"):
        list(tune([256], measure, judge))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--memory", "512,much"], "whole numbers"),
        (["--memory", "64"], "from 128 to 10,240"),
        (["--target", "embedded"], "no memory size"),
    ],
)
def test_tune_refuses(mlinfer: MlInfer, flags: list[str], message: str) -> None:
    """Invalid sizes, and a target without sizes, are wrong usage."""
    run = mlinfer("tune", *flags)
    assert (run.code, run.out) == (2, "")
    assert message in run.err


@pytest.mark.slow
def test_the_generated_image_is_always_the_same(mlinfer: MlInfer, tiny_model: Path) -> None:
    """Without an image, a generated JPEG of 500 x 375 pixels is used."""
    from mlinfer.model.samples import draw_jpeg

    assert draw_jpeg() == draw_jpeg()
    assert (
        json.loads(mlinfer("bench", "--model", tiny_model, "--cold", "1", "--warm", "1", "--json").out)["pictures"] == 1
    )
    assert 30_000 < len(draw_jpeg()) < 200_000


@pytest.mark.slow
def test_the_cat_takes_turns_with_the_others(red: Path) -> None:
    """Several images are used in turn."""
    command = [*COMMAND, "bench", str(CAT), str(red), "--cold", "1", "--warm", "3", "--json", "--verbose"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    sizes = [json.loads(line)["image_bytes"] for line in run.stderr.splitlines() if line.startswith('{"request_id"')]
    assert sizes == [CAT.stat().st_size, red.stat().st_size] * 2
