"""Compare `mlinfer upload` with the AWS CLI's `s3 cp`: the same file and endpoint, in turns.

    pip install awscli                      # in its own environment: it pins botocore
    python benchmarks/upload.py --aws PATH/TO/aws [--endpoint URL] [--mb 50] [--rounds 9]

Both are timed with the start of the program. `mlinfer upload` does more: it hashes the file, lets S3 compare the hashes,
and checks in the end what S3 stored. Without --endpoint, a moto server is started for the run.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import boto3

from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.metadata import Metadata

BUCKET = "upload-benchmark"


def main() -> int:
    """Run both in turns, and print the median of each and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aws", required=True, help="the aws program")
    parser.add_argument("--endpoint", help="an S3 to use, e.g. http://127.0.0.1:9000")
    parser.add_argument("--mb", type=int, default=50, help="size of the file, in 2**20 bytes")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _endpoint(options.endpoint) as endpoint:
        model = _write_model(Path(folder) / "model.onnx", options.mb * 2**20)
        credentials = {"AWS_ACCESS_KEY_ID": "123456789012", "AWS_SECRET_ACCESS_KEY": "benchmark"}
        os.environ.update(credentials, AWS_DEFAULT_REGION="us-east-1", AWS_ENDPOINT_URL=endpoint)
        upload = [sys.executable, "-m", "mlinfer", "upload", str(model), "--bucket", BUCKET, "--quiet"]
        copy = [options.aws, "s3", "cp", str(model), f"s3://{BUCKET}/copy.onnx", "--only-show-errors"]
        checked = [*copy, "--checksum-algorithm", "SHA256"]
        commands = {"mlinfer upload": upload, "aws s3 cp": copy, "aws s3 cp, SHA-256": checked}
        times = _time_in_turn(commands, options.rounds)
    ours = statistics.median(times["mlinfer upload"])
    print(f"{options.mb} MB, {options.rounds} rounds, median (least) in seconds, and ours in relation to it")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:20} {median:6.2f} ({min(seconds):.2f})   {ours / median:.2f}")
    return 0


@contextmanager
def _endpoint(given: str | None) -> Iterator[str]:
    if given:
        yield given
        return
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _write_model(path: Path, size: int) -> Path:
    """Write a file that `mlinfer upload` accepts as a model: the outer fields of an ONNX file around noise."""
    import onnx

    metadata = Metadata("benchmark", ("a", "b"), Preprocess(8, (8, 8)), "logits")
    weights = onnx.TensorProto(data_type=onnx.TensorProto.UINT8, dims=[size], raw_data=os.urandom(size))
    graph = onnx.GraphProto(name="noise", initializer=[weights])
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, metadata.to_props())
    onnx.save(model, path)
    return path


def _time_in_turn(commands: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in commands}
    with closing(boto3.client("s3")) as s3:
        s3.create_bucket(Bucket=BUCKET)  # boto3 tries again until moto listens
        for turn in range(rounds + 1):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                if turn:  # the first fills the caches
                    times[name].append(time.perf_counter() - start)
                for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
                    s3.delete_object(Bucket=BUCKET, Key=item["Key"])
        s3.delete_bucket(Bucket=BUCKET)
    return times


if __name__ == "__main__":
    sys.exit(main())
