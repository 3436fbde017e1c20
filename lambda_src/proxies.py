"""Choose the proxy for a request, and keep requests to this machine away from it.

botocore, requests and urllib read the variables of `spare_loopback`, so they are set once, before the first client is
created. The handler's S3 client asks `find_proxy`, which treats the same variables in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

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


def find_proxy(scheme: str, host: str, environment: Mapping[str, str]) -> str:
    """Return the URL of the proxy for a host, "" for none. scheme: http or https. host: without brackets and port."""
    proxy = ""
    for name in (f"{scheme}_proxy", "all_proxy"):
        proxy = proxy or environment.get(name) or environment.get(name.upper()) or ""
    if not proxy or host in _LOOPBACK or host.startswith("127."):
        return ""
    exceptions = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip().lower() for name in exceptions.split(",") if name.strip()]
    return "" if any(name == "*" or _covers(name, host.lower()) for name in names) else proxy


def _covers(exception: str, host: str) -> bool:
    """Tell whether an entry of NO_PROXY covers a host: its name, a parent domain, its address or a network in CIDR."""
    if "/" in exception:
        import ipaddress

        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(exception, strict=False)
        except ValueError:
            return False
    name = exception.lstrip("*").lstrip(".").strip("[]")
    return host == name or host.endswith(f".{name}")
