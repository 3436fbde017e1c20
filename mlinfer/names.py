"""The names of resources in Docker and AWS, derived from the project's name so that no state file is needed."""

from __future__ import annotations

from dataclasses import dataclass

TAG = "mlinfer:project"  # on every AWS resource
PROJECT_LABEL = "mlinfer.project"  # on every container image and container
ALIAS = "live"
ROLE_PATH = "/mlinfer/"


@dataclass(frozen=True)
class Names:
    """The names of one project's resources."""

    project: str

    @property
    def image(self) -> str:
        """Return the repository of the container image, locally and in ECR."""
        return f"mlinfer/{self.project}"

    @property
    def function(self) -> str:
        """Return the name of the Lambda function and of its role."""
        return f"mlinfer-{self.project}"

    @property
    def log_group(self) -> str:
        """Return the log group that Lambda writes to."""
        return f"/aws/lambda/{self.function}"

    @property
    def staging_prefix(self) -> str:
        """Return the bucket prefix of temporary images that are too large for a request. They expire."""
        return f"mlinfer-staging/{self.project}/"

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of every AWS resource."""
        return {TAG: self.project}


@dataclass(frozen=True)
class Account:
    """An AWS account and Region. partition: aws, aws-cn, aws-us-gov or aws-eusc."""

    id: str
    region: str
    partition: str = "aws"

    def function(self, names: Names) -> str:
        """Return the function's ARN."""
        return f"arn:{self.partition}:lambda:{self.region}:{self.id}:function:{names.function}"

    def role(self, names: Names) -> str:
        """Return the ARN of the function's role."""
        return f"arn:{self.partition}:iam::{self.id}:role{ROLE_PATH}{names.function}"

    def principals(self) -> list[str]:
        """Return ARN patterns of the account's users and roles, which may deploy."""
        return [f"arn:{self.partition}:iam::{self.id}:{kind}/*" for kind in ("user", "role")]

    def log_group(self, names: Names) -> str:
        """Return the log group's ARN."""
        return f"arn:{self.partition}:logs:{self.region}:{self.id}:log-group:{names.log_group}"

    def repository(self, names: Names) -> str:
        """Return the ARN of the container image's repository."""
        return f"arn:{self.partition}:ecr:{self.region}:{self.id}:repository/{names.image}"

    def s3(self, uri: str) -> str:
        """Return the ARN of an s3:// URI. Escape the characters that are wildcards in IAM."""
        plain = uri.removeprefix("s3://").replace("$", "${$}").replace("*", "${*}").replace("?", "${?}")
        return f"arn:{self.partition}:s3:::{plain}"
