"""Every HTTP client bypasses the proxy for this machine, and uses it for other hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from botocore.exceptions import ProxyConnectionError

from lambda_src.proxies import find_proxy, spare_loopback
from lambda_src.service import Service
from lambda_src.settings import Settings
from mlinfer.clients.aws_errors import explain_botocore_error
from mlinfer.model.path import STARTER

from ..conftest import CAT, ROOT, Bucket
from ..servers.engine import LoopbackEngine
from ..servers.functions import LoopbackLambda, serving
from ..servers.http import Answer, Request, serve

Variables = dict[str, str]
NAMES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@dataclass
class Proxy:
    """A proxy that refuses everything and records the requests."""

    asked: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def answer(self, request: Request) -> Answer:
        """Refuse."""
        self.asked.append(f"{request.method} {request.target}")
        return Answer(502)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Return a proxy, and in `variables` what makes every client use it, with one unrelated exception."""
    proxy = Proxy()
    with serve(proxy.answer) as port:
        proxy.variables = dict.fromkeys(NAMES, f"http://127.0.0.1:{port}") | {"NO_PROXY": "intranet.example"}
        yield proxy


def run(words: list[str], variables: Variables) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process, because clients remember the proxies that they found."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)


def mlinfer(*words: object, variables: Variables) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    return run(["-m", "mlinfer", *map(str, words)], variables)


@pytest.fixture
def function() -> Iterator[tuple[LoopbackLambda, str]]:
    """Return a function on loopback and its address; it speaks Lambda's API."""
    with serving(Service(Settings(str(STARTER)), log=lambda _: None)) as found:
        yield found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_the_emulator(proxy: Proxy, function: tuple[LoopbackLambda, str], name: str) -> None:
    """Target local sends the image to this machine directly, whichever variable names a proxy."""
    api, address = function
    variables = {name: proxy.variables[name], "DOCKER_HOST": "unix:///nowhere/docker.sock"}
    done = mlinfer("predict", CAT, "--target", "local", "--port", address.rpartition(":")[2], variables=variables)
    assert done.returncode == 0, done.stderr
    assert (len(api.invocations()), proxy.asked) == (1, [])


def test_the_engine(proxy: Proxy) -> None:
    """A Docker Engine on a local port is called without the proxy."""
    engine = LoopbackEngine(push=lambda *_: [])
    with serve(engine.answer) as port:
        variables = proxy.variables | {"DOCKER_HOST": f"tcp://127.0.0.1:{port}"}
        mlinfer("run-local", "--stop", variables=variables)
    assert engine.requests
    assert proxy.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.slow
def test_an_aws_on_this_machine(proxy: Proxy, bucket: Bucket, host: str) -> None:
    """A local AWS endpoint is called without the proxy."""
    variables = proxy.variables | {"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"].replace("127.0.0.1", host)}
    done = mlinfer("upload", "--bucket", bucket.name, variables=variables)
    assert done.returncode == 0, done.stderr
    assert proxy.asked == []


def test_the_handlers_s3(proxy: Proxy, bucket: Bucket) -> None:
    """The handler reads from a local S3 without the proxy."""
    event = {"s3": bucket.put("in/cat.jpg", CAT.read_bytes())}
    code = "import json, sys; from lambda_src.handler import lambda_handler as f; f(json.loads(sys.argv[1]))"
    variables = proxy.variables | {"MLINFER_MODEL_URI": str(STARTER), "MLINFER_INPUT_PREFIXES": "s3://pictures"}
    done = run(["-c", code, json.dumps(event)], variables)
    assert json.loads(done.stdout.splitlines()[-1])["outcome"] == "ok", done.stderr
    assert proxy.asked == []


@pytest.mark.slow
def test_aws_takes_the_proxy(proxy: Proxy) -> None:
    """Another endpoint is called through the proxy."""
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    variables = proxy.variables | keys | {"AWS_ENDPOINT_URL": "http://aws.example:4566", "AWS_MAX_ATTEMPTS": "1"}
    assert mlinfer("status", variables=variables).returncode == 4
    assert proxy.asked
    assert all("//aws.example:4566/" in line for line in proxy.asked)


@pytest.mark.slow
def test_the_functions_url_takes_the_proxy(proxy: Proxy, function: tuple[LoopbackLambda, str]) -> None:
    """A function URL in AWS is called through the proxy."""
    api, address = function
    api.url = "https://abc.lambda-url.us-east-1.on.aws/"
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    variables = proxy.variables | keys | {"AWS_ENDPOINT_URL_LAMBDA": address}
    done = mlinfer("predict", CAT, "--target", "aws", "--url", "--json", variables=variables)
    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["code"] == "connection_failed"
    assert set(proxy.asked) == {"CONNECT abc.lambda-url.us-east-1.on.aws:443"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {}),
        ({"NO_PROXY": "a.example"}, {"NO_PROXY": "a.example"}),
        ({"https_proxy": "http://p:1", "no_proxy": "*"}, {"https_proxy": "http://p:1", "no_proxy": "*"}),
    ],
)
def test_nothing_to_change(given: dict[str, str], wanted: dict[str, str]) -> None:
    """If no proxy would be used, the environment stays unchanged."""
    spare_loopback(given)
    assert given == wanted


ALL = {"https_proxy": "http://p:1"}


@pytest.mark.parametrize(
    ("scheme", "host", "variables", "proxy"),
    [
        ("https", "s3.example", {}, ""),
        ("https", "s3.example", ALL, "http://p:1"),
        ("https", "s3.example", {"HTTPS_PROXY": "http://p:2", "all_proxy": "http://p:3"}, "http://p:2"),
        ("http", "s3.example", ALL, ""),
        ("http", "s3.example", {"ALL_PROXY": "http://p:3"}, "http://p:3"),
        ("https", "127.0.0.2", ALL, ""),
        ("https", "::1", ALL, ""),
        ("https", "s3.example", ALL | {"no_proxy": "*"}, ""),
        ("https", "S3.example", ALL | {"NO_PROXY": "a.example, .EXAMPLE"}, ""),
        ("https", "s3.example", ALL | {"NO_PROXY": "3.example"}, "http://p:1"),
        ("https", "10.1.2.3", ALL | {"NO_PROXY": "10.0.0.0/8"}, ""),
        ("https", "11.1.2.3", ALL | {"NO_PROXY": "10.0.0.0/8,bad/9"}, "http://p:1"),
        ("https", "fd00::1", ALL | {"NO_PROXY": "[fd00::1]"}, ""),
    ],
)
def test_the_proxy_of_the_handlers_s3(scheme: str, host: str, variables: Variables, proxy: str) -> None:
    """The handler's S3 client reads the variables as the other clients do: names, domains, addresses and networks."""
    assert find_proxy(scheme, host, variables) == proxy


def test_exceptions_are_kept() -> None:
    """Existing exceptions stay, in each spelling, and nothing is added twice."""
    given = {"HTTP_PROXY": "http://p:1", "no_proxy": "a.example, localhost", "NO_PROXY": "b.example"}
    spare_loopback(given)
    once = dict(given)
    spare_loopback(given)
    assert given == once
    assert {"a.example", "localhost", "127.0.0.1", "::1"} <= set(given["no_proxy"].split(","))
    assert {"b.example", "localhost", "127.0.0.1", "::1"} <= set(given["NO_PROXY"].split(","))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "code", "status", "named"),
    [
        ({"AWS_CA_BUNDLE": "nowhere.pem"}, "invalid_aws_setting", 2, "nowhere.pem"),
        ({"AWS_CA_BUNDLE": str(CAT)}, "invalid_aws_setting", 2, "cat.jpg"),
        ({}, "connection_failed", 4, "AWS_ENDPOINT_URL"),
        ({"HTTP_PROXY": "http://[bad"}, "invalid_aws_setting", 2, "HTTP_PROXY"),
        ({"HTTP_PROXY": "http://127.0.0.1:99999"}, "invalid_aws_setting", 2, "HTTP_PROXY"),
        ({"HTTP_PROXY": "http://127.0.0.1:1"}, "connection_failed", 4, "HTTP_PROXY"),
    ],
)
def test_connection_errors_are_explained(
    proxy: Proxy, variables: dict[str, str], code: str, status: int, named: str
) -> None:
    """A wrong certificate file, an unencrypted service and a wrong proxy each name the variable to correct."""
    plain = proxy.variables["HTTP_PROXY"]  # a server without TLS
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    endpoint = "http://aws.example:4566" if "HTTP_PROXY" in variables else plain.replace("http:", "https:")
    done = mlinfer(
        "status", "--json", variables=variables | keys | {"AWS_ENDPOINT_URL": endpoint, "AWS_MAX_ATTEMPTS": "1"}
    )
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (status, code), error
    assert named in error["message"] + error["hint"]


@pytest.mark.parametrize("scheme", ["socks5", "ftp"])
def test_a_proxy_of_another_kind(scheme: str) -> None:
    """A proxy scheme that botocore does not support is a wrong setting."""
    error = ProxyConnectionError(proxy_url=f"http://{scheme}://127.0.0.1:1", error=OSError("no such host"))
    told = explain_botocore_error(error, "AWS")
    assert (told.code, told.exit_code) == ("invalid_aws_setting", 2)
    assert scheme in str(told)
