"""The AWS partitions China, GovCloud and European Sovereign Cloud."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing

import boto3
import pytest

from mlinfer.clients.aws import container_environment
from mlinfer.doctor.aws import check_endpoints

from ..conftest import Run
from ..servers.aws import ACCOUNT, REGION, LoopbackAws, identity

MlInfer = Callable[..., Run]
REGIONS = [
    ("eu-central-1", "aws", ""),
    ("us-gov-west-1", "aws-us-gov", ""),
    ("cn-north-1", "aws-cn", "https://s3.cn-north-1.amazonaws.com.cn"),
    ("eusc-de-east-1", "aws-eusc", "https://s3.eusc-de-east-1.amazonaws.eu"),
]


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set credentials and no endpoint; nothing is called."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTS")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    yield


@pytest.mark.parametrize(("region", "partition", "endpoint"), REGIONS)
def test_the_function_gets_s3s_address(
    mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str], region: str, partition: str, endpoint: str
) -> None:
    """Where S3's host name does not end in amazonaws.com, the function gets it; ARNs have the account's partition."""
    arn = f"arn:{partition}:iam::{ACCOUNT}:user/me"
    cloud.fail("sts:GetCallerIdentity", lambda *_: identity(arn))
    image = deploy_arguments[-1].replace(REGION, region)
    run = mlinfer("deploy", *deploy_arguments[:-1], image, "--dry-run", "--region", region, "--json")
    assert run.code == 0, run.err
    steps = {step["name"]: step.get("difference", "") for step in json.loads(run.out)["steps"]}
    assert f"arn:{partition}:iam::{ACCOUNT}:role/mlinfer/mlinfer-cats" in steps["function"]
    assert f"arn:{partition}:s3:::cloud-models" in steps["role"]
    assert ("AWS_ENDPOINT_URL_S3" in steps["function"]) == bool(endpoint)
    assert endpoint in steps["function"]


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(("region", "endpoint"), [(region, endpoint) for region, _, endpoint in REGIONS])
def test_the_container_gets_s3s_address(region: str, endpoint: str) -> None:
    """run-local --from-s3 gives the container the same address."""
    assert (
        container_environment(region=region, profile=None, ask=lambda _: "").get("AWS_ENDPOINT_URL_S3", "") == endpoint
    )


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("region", [region for region, _, _ in REGIONS])
def test_the_partitions_own_hosts_are_aws(region: str) -> None:
    """doctor accepts the hosts of each partition as AWS, and warns of others."""
    for more, state in (({}, "ok"), ({"endpoint_url": "http://127.0.0.1:9"}, "warning")):
        for service in ("s3", "ecr", "iam", "lambda", "sts"):
            with closing(boto3.client(service, region_name=region, **more)) as client:
                assert [finding.state for finding in check_endpoints([client])] == [state]


@pytest.mark.parametrize(("region", "partition"), [(region, partition) for region, partition, _ in REGIONS])
def test_the_policy_without_credentials(mlinfer: MlInfer, region: str, partition: str) -> None:
    """Without an account, doctor --policy takes the partition from the Region."""
    policy = mlinfer("doctor", "--policy", "--region", region).out
    assert f"arn:{partition}:lambda:{region}:" in policy
    assert ("arn:aws:" in policy) == (partition == "aws")
