"""Signatures are those that AWS publishes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lambda_src.s3.credentials import Credentials
from lambda_src.s3.signing import encode, sign

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "signature_v4.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_published_signatures(vector: dict[str, Any]) -> None:
    """Each of AWS's published requests gets its published signature, also with a session token."""
    authorization = sign(
        vector["method"],
        encode(vector["path"]),
        vector["headers"],
        payload_sha256=hashlib.sha256(vector["body"].encode()).hexdigest(),
        credentials=Credentials(vector["access_key"], vector["secret_key"]),
        region=vector["region"],
        query=vector["query"],
        service=vector["service"],
    )
    assert authorization.rpartition("Signature=")[2] == vector["signature"]
    assert f"SignedHeaders={';'.join(sorted(vector['headers']))}," in authorization
