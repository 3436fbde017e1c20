"""What things are called in Docker and AWS. Names are derived from the project's, not recorded: there is no state file."""

from __future__ import annotations

from dataclasses import dataclass

TAG = "mlinfer:project"  # on every AWS resource
PROJECT_LABEL = "mlinfer.project"  # on every image and container
ALIAS = "live"


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
