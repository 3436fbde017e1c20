"""Keep requests to this machine away from the proxy that HTTP_PROXY and similar variables set.

All HTTP clients here (botocore, requests, urllib, and reqwest inside obstore) read the same variables, so they are set
once, before the first client is created.
"""

from __future__ import annotations

from collections.abc import MutableMapping

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")  # urllib and botocore compare [::1] with its brackets
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")


def spare_loopback(environment: MutableMapping[str, str]) -> None:
    """Exclude this machine from the proxy. Change nothing if no proxy is set."""
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return
    lower, upper = (environment.get(name, "").strip() for name in _EXCEPTIONS)
    for name, given in zip(_EXCEPTIONS, (lower or upper, upper or lower), strict=True):
        hosts = [host.strip() for host in given.split(",") if host.strip()]
        if hosts != ["*"]:  # all hosts
            environment[name] = ",".join(hosts + [host for host in _LOOPBACK if host not in hosts])
