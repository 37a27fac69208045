"""Signed S3 requests, enough to see that an S3 server knows its credentials and keeps its data.

Belongs here: AWS signature version 4 for one request (the S3 API reference, "sig-v4-header-based-auth").
Not here: the product's way to S3, which is deltalake's own.
"""

import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import httpx

REGION: Final = "us-east-1"
ANSWER_SECONDS: Final = 5.0


def request(
    method: str, url: str, path: str, credentials: Mapping[str, str], body: bytes = b"", *, region: str = REGION
) -> httpx.Response:
    """Send one signed request to `url` + `path`; credentials are `access_key` and `secret_key`.

    Raises: httpx.HTTPError where there is no answer; what the answer says is the caller's to judge.
    """
    now = dt.datetime.now(dt.UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    path = quote(path)
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": httpx.URL(url).netloc.decode(), "x-amz-content-sha256": digest, "x-amz-date": stamp}
    signed = ";".join(sorted(headers))
    listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = "\n".join([method, path, "", listed, signed, digest])
    scope = f"{day}/{region}/s3/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{credentials['secret_key']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    identity = f"{credentials['access_key']}/{scope}"
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={identity}, SignedHeaders={signed}, Signature={signature}"
    return httpx.request(method, f"{url}{path}", content=body, headers=headers, timeout=ANSWER_SECONDS)
