"""Signatures of requests sent past every client: AWS version 4, Azure account SAS.

Written from the vendors' descriptions and with the standard library alone, so
that what a test puts or reads does not pass through the client under test.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, urlencode

__all__ = ["aws_headers", "azure_query", "quoted_path"]

_SAS_VERSION = "2018-11-09"  # the last one whose text to sign has no encryption scope


def quoted_path(path: str) -> str:
    """Encode a path as AWS wants it signed: all but unreserved characters and ``/``."""
    return quote(path, safe="/-_.~")


def aws_headers(
    method: str, host: str, path: str, query: str, body: bytes, credentials: tuple[str, str, str]
) -> dict[str, str]:
    """Sign an S3 request with AWS signature version 4.

    Parameters
    ----------
    method, host : str
        As sent.
    path : str
        As sent, from `quoted_path`.
    query : str
        As sent.
    body : bytes
        As sent.
    credentials : tuple[str, str, str]
        Key, secret and region.

    Returns
    -------
    dict[str, str]
        Headers to send.
    """
    key, secret, region = credentials
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": now}
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(query, keep_blank_values=True)
    )
    canonical = "\n".join(
        [
            method,
            path,
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{value}" for name, value in headers.items()),
            "",
            ";".join(headers),
            digest,
        ]
    )
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashed}"
    signer = f"AWS4{secret}".encode()
    for part in (now[:8], region, "s3", "aws4_request", text):
        signer = hmac.digest(signer, part.encode(), "sha256")
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={key}/{scope},"
        f" SignedHeaders={';'.join(headers)}, Signature={signer.hex()}"
    )
    return {**headers, "authorization": authorization}


def azure_query(account: str, key: str) -> str:
    """Make the query of an Azure account SAS that may do anything to blobs for a day."""
    expiry = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    given = {"sp": "rwdlac", "ss": "b", "srt": "sco", "se": expiry, "sv": _SAS_VERSION}
    text = [account, given["sp"], given["ss"], given["srt"], "", expiry, "", "", _SAS_VERSION, ""]
    signature = hmac.digest(base64.b64decode(key), "\n".join(text).encode(), "sha256")
    return urlencode({**given, "sig": base64.b64encode(signature).decode()})
