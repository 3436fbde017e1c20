"""What things are called in Docker and AWS. Names are derived from the project's, not recorded: there is no state file."""

from __future__ import annotations

from dataclasses import dataclass

TAG = "mlinfer:project"  # on every AWS resource
PROJECT_LABEL = "mlinfer.project"  # on every image and container
ALIAS = "live"
ROLE_PATH = "/mlinfer/"


@dataclass(frozen=True)
class Names:
    """The names of one project's resources."""

    project: str

    @property
    def image(self) -> str:
        """Return the local image's repository and that in ECR."""
        return f"mlinfer/{self.project}"

    @property
    def function(self) -> str:
        """Return the Lambda function's name; its role has the same."""
        return f"mlinfer-{self.project}"

    @property
    def log_group(self) -> str:
        """Return the log group that Lambda writes to."""
        return f"/aws/lambda/{self.function}"

    @property
    def staging_prefix(self) -> str:
        """Return where in the bucket pictures that are too large for a request wait for the function; they expire."""
        return f"mlinfer-staging/{self.project}/"

    @property
    def tags(self) -> dict[str, str]:
        """Return the tag of every AWS resource."""
        return {TAG: self.project}


@dataclass(frozen=True)
class Account:
    """Whose AWS it is, and where. partition: aws, aws-cn, aws-us-gov or aws-eusc."""

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
        """Return ARN patterns of those who may deploy: the account's users and roles."""
        return [f"arn:{self.partition}:iam::{self.id}:{kind}/*" for kind in ("user", "role")]

    def log_group(self, names: Names) -> str:
        """Return the log group's ARN."""
        return f"arn:{self.partition}:logs:{self.region}:{self.id}:log-group:{names.log_group}"

    def repository(self, names: Names) -> str:
        """Return the ARN of the image's repository."""
        return f"arn:{self.partition}:ecr:{self.region}:{self.id}:repository/{names.image}"

    def s3(self, uri: str) -> str:
        """Return the ARN of an s3:// URI, its characters taken as they are and not as IAM's wildcards."""
        plain = uri.removeprefix("s3://").replace("$", "${$}").replace("*", "${*}").replace("?", "${?}")
        return f"arn:{self.partition}:s3:::{plain}"
