"""`mlinfer logs`: show the function's log."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from ...names import Names
from ...terminal import printable
from ..application import command
from ..options import (
    AwsOptions,
    OutputOptions,
    read_configuration,
)


@command("mlinfer logs --since 2h", "mlinfer logs --follow", "mlinfer logs --json | jq .message")
def logs(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new lines until Ctrl-C.")] = False,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="How far back, such as 45s, 10m, 2h or 3d.")
    ] = "10m",
    aws: AwsOptions,
    output: OutputOptions,
) -> None:
    """Show the function's log.

    Times are local. With --json, each log line is one JSON document (JSON Lines).
    """
    from ...cloud.logs import follow as follow_log
    from ...cloud.logs import read, since_ms

    terminal = output.make_terminal()
    names = Names(read_configuration(aws).project)
    start = since_ms(since, int(time.time() * 1000))
    client = aws.account.open_session(terminal).client("logs")
    lines = follow_log(client, names, start, sleep=time.sleep) if follow else read(client, names, start)
    count = 0
    for line in lines:
        count += 1
        if output.as_json:
            terminal.document(asdict(line), lines=True)
        else:
            when = datetime.fromtimestamp(line.timestamp / 1000, UTC).astimezone()
            terminal.text(f"{when:%Y-%m-%d %H:%M:%S} {printable(line.message)}")
    if not count:
        terminal.note(f"Log group {names.log_group} has no lines from the last {since}.")
