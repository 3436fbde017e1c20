"""Reading and writing objects on an S3 that verifies each signature, breaks connections and fails on request."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lambda_src.s3.credentials import CredentialsError
from lambda_src.s3.objects import (
    ObjectForbiddenError,
    ObjectNotFoundError,
    StorageError,
    open_object,
    put_object,
)
from lambda_src.service import Service
from lambda_src.settings import Settings

from ...conftest import ROOT, Bucket
from ...pictures import encoded, plain
from ...servers.http import Answer, Request, error, serve
from ...servers.s3 import ACCESS_KEY, SECRET_KEY, TOKEN, StrictS3
from ...servers.tls import make_certificates, tls_proxy

URI = "s3://models/a.bin"
CONTENT = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(40_000))  # 1.28 MB
KEYS = [
    "a.bin",
    "a//b",
    "//a",
    "/",
    "a/",
    "a/../b",
    "../a",
    "./a",
    ".",
    "..",
    "a\nb",
    "a\r\nb: c",
    "\x00\x7f\t",
    "a b+c%d%20e",
    "?a=b&c#d",
    "ü/u\u0308/日本/\U0001f600",
    "~*'()!$&,:;=@[]{}|\\^`\"<>",
    "k" * 1024,
]


def read(uri: str) -> bytes:
    """Return the content of an object."""
    with open_object(uri) as stored:
        return b"".join(stored)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictS3]:
    """Return an S3 with one object that the environment points to, with temporary credentials as in Lambda."""
    server = StrictS3(objects={b"/models/a.bin": CONTENT})
    with serve(server.answer, keep_alive=True) as port:
        environment = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_SESSION_TOKEN": TOKEN,
            "AWS_REGION": server.region,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield server


def test_each_key_is_sent_byte_for_byte(strict: StrictS3) -> None:
    """Objects of every kind of key are written and read under exactly that key, over one connection."""
    for number, key in enumerate(KEYS):
        put_object(f"s3://b-1/{key}", b"%d" % number, "text/plain")
    strict.objects.pop(b"/models/a.bin")
    assert strict.objects == {f"/b-1/{key}".encode(): b"%d" % number for number, key in enumerate(KEYS)}
    assert [read(f"s3://b-1/{key}") for key in KEYS] == list(strict.objects.values())
    assert len({request.client for request in strict.requests}) == 1


def test_an_event_names_any_key(strict: StrictS3, tiny_model: Path) -> None:
    """A direct event gets the picture under a key with a line break and empty folders."""
    strict.objects["/pictures/in//a\nb/../ü+%.png".encode()] = encoded(plain((255, 0, 0)), "PNG")
    service = Service(Settings(str(tiny_model), input_prefixes=("s3://pictures/in",)), log=lambda _: None)
    assert service.answer({"s3": "s3://pictures/in//a\nb/../ü+%.png"})["body"]["label"] == "red"


@pytest.mark.parametrize("key", ["in/\ud800.png", "k" * 1025])
def test_a_key_that_cannot_exist(strict: StrictS3, tiny_model: Path, key: str) -> None:
    """A key that no object can have is the caller's mistake."""
    strict.before = [error(400, "KeyTooLongError", "Your key is too long")]
    service = Service(Settings(str(tiny_model), input_prefixes=("s3://pictures",)), log=lambda _: None)
    answer = service.answer({"s3": f"s3://pictures/{key}"})
    assert (answer["statusCode"], answer["body"]["error"]["code"]) == (404, "s3_not_found")


def test_put_is_read_by_boto3(bucket: Bucket) -> None:
    """What `put_object` writes has its content and media type for other clients, and replaces what was there."""
    bucket.put("out/a.json", b"before")
    put_object(f"s3://{bucket.name}/out/a.json", b"{}", "application/json")
    found = bucket.client.get_object(Bucket=bucket.name, Key="out/a.json")  # type: ignore[attr-defined]
    assert (found["Body"].read(), found["ContentType"]) == (b"{}", "application/json")


# Errors


REFUSED = [
    (error(404, "NoSuchBucket", "The specified bucket does not exist"), ObjectNotFoundError, "bucket does not exist"),
    (error(403, "AccessDenied", "not authorized to perform: kms:Decrypt"), ObjectForbiddenError, "kms:Decrypt"),
    (error(401, "AccessDenied", ""), ObjectForbiddenError, "no reason given"),
    (error(403, "InvalidAccessKeyId", "The key does not exist"), StorageError, "InvalidAccessKeyId: The key"),
    (error(403, "RequestTimeTooSkewed", "The difference &lt; 15"), StorageError, "RequestTimeTooSkewed: .* < 15"),
    (error(400, "ExpiredToken", "The token\n  has expired."), StorageError, "ExpiredToken: The token has expired"),
    (error(400, "KMS.DisabledException", "The key is disabled."), StorageError, "KMS.DisabledException"),
    (Answer(400, {"transfer-encoding": "chunked"}, b"<Error><Code>Odd</Code></Error>"), StorageError, "400 Odd"),
]


@pytest.mark.parametrize(("answer", "kind", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_refusals_are_not_retried(strict: StrictS3, answer: Answer, kind: type[Exception], text: str) -> None:
    """A refusal is told with S3's reason after one request."""
    strict.before = [answer]
    with pytest.raises(kind, match=text):
        read(URI)
    assert len(strict.requests) == 1


@pytest.mark.usefixtures("strict")
def test_a_wrong_secret_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of these tests refuses a signature that was made with another key."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY[:-1])
    with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
        read(URI)


@pytest.mark.parametrize(
    "answer",
    [
        error(503, "SlowDown"),
        error(429, "TooManyRequests"),
        error(500, "InternalError"),
        error(400, "RequestTimeout"),
        None,
    ],
    ids=["503", "429", "500", "RequestTimeout", "cut"],
)
def test_passing_failures_are_retried(strict: StrictS3, answer: Answer | None) -> None:
    """A throttled, failed or cut request is sent again, to read and to write."""
    strict.before = [answer]
    assert read(URI) == CONTENT
    strict.before = [answer]
    put_object("s3://models/b.bin", b"new", "text/plain")
    assert strict.objects[b"/models/b.bin"] == b"new"


def test_it_gives_up(strict: StrictS3) -> None:
    """After four failures the error says what S3 answered."""
    strict.before = [error(500, "InternalError", "We encountered an internal error.")] * 9
    with pytest.raises(StorageError, match="500 InternalError: We encountered"):
        read(URI)
    assert len(strict.requests) == 4


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "HTTP_PROXY"])
@pytest.mark.parametrize("value", ["127.0.0.1:9000", "ftp://s3", "http://s3:0", "http://s3:x", "https://"])
def test_a_wrong_address(strict: StrictS3, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """An address of an endpoint or a proxy that is no URL is named, without a request."""
    if name == "HTTP_PROXY":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example")
    monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=name):
        read(URI)
    assert strict.requests == []


# Broken downloads


def test_a_download_is_continued(strict: StrictS3) -> None:
    """A download that is cut again and again continues where it broke, only if the object is the same."""
    strict.cuts = [300_000, 0, 1, 500_000]
    assert read(URI) == CONTENT
    first, *others = [request.headers for request in strict.requests]
    assert "range" not in first
    assert [headers["range"] for headers in others] == [f"bytes={at}-" for at in (300_000, 300_000, 300_001, 800_001)]
    assert len({headers["if-match"] for headers in others}) == 1


def test_an_object_that_changes_is_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the object is replaced while it is read, the rest of the new one is not added."""
    server = StrictS3(objects={b"/models/a.bin": CONTENT}, cuts=[1000])

    def answer(request: Request) -> Answer | None:
        answered = server.answer(request)
        server.objects[b"/models/a.bin"] = CONTENT[::-1]
        return answered

    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_SESSION_TOKEN": TOKEN}
    with serve(answer, keep_alive=True) as port:
        for name, value in (
            keys | {"AWS_REGION": server.region, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        ).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StorageError, match="412 PreconditionFailed"):
            read(URI)
    assert len(server.requests) == 2


def test_a_download_without_progress_ends(strict: StrictS3) -> None:
    """A download that breaks four times at one place is an error that names it."""
    strict.cuts = [1000] + [0] * 9
    with pytest.raises(StorageError, match="ended after 1,000 of 1,280,000 bytes"):
        read(URI)
    assert len(strict.requests) == 4


# Connections


def test_a_connection_is_used_again(strict: StrictS3) -> None:
    """Requests share a connection; one that the server closed while it was idle, or left half read, is replaced."""
    assert [read(URI), read(URI)] == [CONTENT, CONTENT]
    strict.before = [None]
    assert read(URI) == CONTENT
    open_object(URI).close()
    assert read(URI) == CONTENT
    clients = [request.client for request in strict.requests]
    assert clients[0] == clients[1] == clients[2] != clients[3]
    assert clients[3] == clients[4] != clients[5]


def test_a_bucket_in_another_region(strict: StrictS3) -> None:
    """A request for a bucket in another Region is signed again for it; later requests go there at once."""
    strict.region = "eu-west-1"
    strict.objects[b"/moved/a.bin"] = CONTENT
    moved = error(301, "PermanentRedirect", "The bucket must be addressed using the specified endpoint.")
    strict.before = [Answer(301, moved.headers | {"x-amz-bucket-region": "eu-west-1"}, moved.body)]
    assert [read("s3://moved/a.bin"), read("s3://moved/a.bin")] == [CONTENT, CONTENT]
    assert len(strict.requests) == 3


FETCH = """
import sys; from lambda_src.s3.objects import open_object
for uri in sys.argv[1:]:
    with open_object(uri) as stored:
        print(len(b"".join(stored)))
"""


def fetch(*uris: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Read objects in a new process, because a process reads its authorities once."""
    environment = {name: value for name, value in os.environ.items() if name != "AWS_ENDPOINT_URL_S3"}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-c", FETCH, *uris], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("authority", ["Amazon Root CA 1", "A company's proxy"])
def test_https(strict: StrictS3, tmp_path: Path, authority: str) -> None:
    """AWS is reached with TLS through the proxy; a bucket is in the host name where S3's certificate covers it."""
    trusted, certificate = make_certificates(tmp_path, authority)
    strict.virtual_host = ".s3.eu-central-1.amazonaws.com"
    port = int(os.environ["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])
    with tls_proxy(certificate, port) as (proxy, asked):
        variables = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy}", "SSL_CERT_FILE": str(trusted)}
        done = fetch(URI, URI, **variables)
        assert done.stdout.split() == ["1280000"] * 2, done.stderr
        strict.virtual_host = ""
        strict.objects[b"/my.models/a.bin"] = b"dots"
        assert fetch("s3://my.models/a.bin", **variables).stdout.split() == ["4"]
    assert set(asked[:-1]) == {"CONNECT models.s3.eu-central-1.amazonaws.com:443 HTTP/1.1"}
    assert asked[-1] == "CONNECT s3.eu-central-1.amazonaws.com:443 HTTP/1.1"


@pytest.mark.slow
def test_an_unknown_authority(strict: StrictS3, tmp_path: Path) -> None:
    """A server whose certificate no trusted authority signed gets no request."""
    _, certificate = make_certificates(tmp_path, "Amazon Root CA 1")
    port = int(os.environ["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])
    with tls_proxy(certificate, port) as (proxy, _):
        done = fetch(URI, HTTPS_PROXY=f"http://127.0.0.1:{proxy}")
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr.splitlines()[-1]
    assert strict.requests == []


@pytest.mark.slow
def test_proxy_that_refuses(strict: StrictS3) -> None:
    """A proxy that refuses the connection is named; it gets the name and password of its URL."""
    asked: list[Request] = []

    def refuse(request: Request) -> Answer:
        asked.append(request)
        return Answer(407)

    with serve(refuse) as port:
        done = fetch(URI, HTTPS_PROXY=f"http://me:p%40ss@127.0.0.1:{port}")
    assert f"the proxy 127.0.0.1:{port} refused the connection" in done.stderr.splitlines()[-1]
    assert asked[0].headers["proxy-authorization"] == "Basic bWU6cEBzcw=="
    assert strict.requests == []


# Credentials


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch, strict: StrictS3) -> Iterator[Callable[[str], list[Request]]]:
    """Return a function that serves credentials with an expiry, as Lambda does for SnapStart; it returns the requests."""
    asked: list[Request] = []
    assert strict.requests == []
    document = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": TOKEN}

    def answer(request: Request) -> Answer:
        asked.append(request)
        return Answer(200, {}, json.dumps(document).encode())

    with serve(answer) as port:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{port}/2021-04-23/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "secret")

        def expire(expiration: str) -> list[Request]:
            document["Expiration"] = expiration
            return asked

        yield expire


@pytest.mark.parametrize(("expiration", "times"), [("2099-01-01T00:00:00Z", 1), ("2020-01-01T00:00:00Z", 2)])
def test_credentials_of_a_container(container: Callable[[str], list[Request]], expiration: str, times: int) -> None:
    """Credentials that Lambda serves over HTTP are fetched once, and again when they expire."""
    asked = container(expiration)
    assert [read(URI), read(URI)] == [CONTENT, CONTENT]
    assert [(request.target, request.headers["authorization"]) for request in asked] == [
        ("/2021-04-23/credentials", "secret")
    ] * times


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("", "set AWS_ACCESS_KEY_ID"),
        ("http://intranet.example/", "HTTPS or a local address"),
        ("nowhere", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ("http://127.0.0.1:1/", "cannot fetch"),
    ],
)
def test_no_credentials(strict: StrictS3, monkeypatch: pytest.MonkeyPatch, address: str, text: str) -> None:
    """Without credentials, the error says which variable to set or correct, and S3 gets no request."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", address)
    with pytest.raises(CredentialsError, match=text):
        read(URI)
    assert strict.requests == []
