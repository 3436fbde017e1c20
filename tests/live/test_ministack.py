"""The emulated AWS runs pushed images, as a deployment needs."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from ..servers.ministack import Ministack
from .test_registry import push

ONCE = Config(retries={"total_max_attempts": 1}, read_timeout=120)


@contextmanager
def clients(*services: str) -> Iterator[list[Any]]:
    """Create clients from the environment, and close them."""
    made = [boto3.client(service, config=ONCE) for service in services]
    try:
        yield made
    finally:
        for client in made:
            client.close()


def test_s3_compares_checksums(ministack: Ministack) -> None:
    """An object whose SHA-256 does not match is refused."""
    with clients("s3", "sts") as (s3, sts):
        assert sts.get_caller_identity()["Account"] == ministack.account
        s3.create_bucket(Bucket="models")
        checksum = base64.b64encode(hashlib.sha256(b"model").digest()).decode()
        s3.put_object(Bucket="models", Key="a", Body=b"model", ChecksumSHA256=checksum)
        assert s3.head_object(Bucket="models", Key="a", ChecksumMode="ENABLED")["ChecksumSHA256"] == checksum
        with pytest.raises(ClientError, match="BadDigest"):
            s3.put_object(Bucket="models", Key="b", Body=b"other", ChecksumSHA256=checksum)


@pytest.mark.usefixtures("ministack")
def test_nothing_is_left_for_the_next_test() -> None:
    """Each test starts with an empty account."""
    with clients("s3", "ecr", "lambda") as (s3, ecr, functions):
        assert s3.list_buckets()["Buckets"] == []
        assert ecr.describe_repositories()["repositories"] == []
        assert functions.list_functions()["Functions"] == []
        s3.create_bucket(Bucket="models")


def test_a_pushed_image_is_invoked(ministack: Ministack, engine: Any, echo_image: str) -> None:
    """An image pushed to ECR runs as a function, answers through its alias, and can read from S3."""
    with clients("s3", "ecr", "lambda") as (s3, ecr, functions):
        repository = ecr.create_repository(repositoryName="echo")["repository"]["repositoryUri"]
        assert repository == f"{ministack.ecr.name}/echo"
        digest = push(engine, echo_image, repository, "AWS", "anything")["aux"]["Digest"]
        manifest = ecr.batch_get_image(repositoryName="echo", imageIds=[{"imageTag": "v1"}])["images"][0]
        assert manifest["imageId"]["imageDigest"] == digest
        assert hashlib.sha256(manifest["imageManifest"].encode()).hexdigest() == digest.removeprefix("sha256:")

        image = f"{repository}@{digest}"
        role = f"arn:aws:iam::{ministack.account}:role/none"
        functions.create_function(FunctionName="echo", PackageType="Image", Code={"ImageUri": image}, Role=role)
        functions.get_waiter("function_active_v2").wait(FunctionName="echo")
        assert functions.get_function(FunctionName="echo")["Code"]["ResolvedImageUri"] == image
        version = functions.publish_version(FunctionName="echo")["Version"]
        functions.create_alias(FunctionName="echo", Name="live", FunctionVersion=version)

        answer = functions.invoke(FunctionName="echo", Qualifier="live", Payload=b'{"a": 1}', LogType="Tail")
        assert answer["ExecutedVersion"] == version
        assert json.load(answer["Payload"])["event"] == {"a": 1}
        assert "heard {'a': 1}" in base64.b64decode(answer["LogResult"]).decode()
        s3.create_bucket(Bucket="models")
        s3.put_object(Bucket="models", Key="a", Body=b"model")
        url = urlsplit(s3.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": "a"}))
        event = {"get": f"{url.path}?{url.query}"}
        answer = functions.invoke(FunctionName="echo", Payload=json.dumps(event))
        assert json.load(answer["Payload"])["content"] == "model"
        answer = functions.invoke(FunctionName="echo", Payload=b'{"fail": "boom"}')
        assert (answer["FunctionError"], json.load(answer["Payload"])["errorMessage"]) == ("Unhandled", "boom")


@pytest.mark.usefixtures("ministack")
def test_the_functions_containers_go(engine: Any, label: str) -> None:
    """The containers of the previous test's functions are gone."""
    assert engine.containers.list(all=True, filters={"label": [label, "ministack=lambda"]}) == []
