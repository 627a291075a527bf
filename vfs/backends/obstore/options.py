"""Options of ``obs3``, ``obgs`` and ``obaz``, spelled as s3fs, gcsfs and adlfs users know them.

What lives here: pure translation to obstore's configuration. What must not: requests.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from vfs.config.options import check_choice, check_known
from vfs.errors import ConfigError

__all__ = [
    "AZURE_OPTIONS",
    "GCS_OPTIONS",
    "PRESETS",
    "S3_OPTIONS",
    "StoreConfig",
    "azure_config",
    "gcs_config",
    "s3_config",
]

#: What a server needs that is no AWS; see docs/s3-servers.md for where each is said.
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "aws": {},
    "ceph": {"region": "us-east-1"},
    "garage": {"region": "garage"},
    "minio": {"region": "us-east-1"},
    "r2": {"region": "auto"},
    "seaweedfs": {"region": "us-east-1"},
}

#: obstore's own names (its ``S3Config``), passed on as they are.
_S3_NATIVE: Final = frozenset(
    {
        "access_key_id",
        "checksum_algorithm",
        "conditional_put",
        "container_authorization_token_file",
        "container_credentials_full_uri",
        "container_credentials_relative_uri",
        "copy_if_not_exists",
        "default_region",
        "disable_bulk_delete",
        "disable_tagging",
        "endpoint",
        "imdsv1_fallback",
        "metadata_endpoint",
        "region",
        "request_payer",
        "role_arn",
        "role_session_name",
        "s3_express",
        "secret_access_key",
        "server_side_encryption",
        "session_token",
        "skip_signature",
        "sse_bucket_key_enabled",
        "sse_customer_key_base64",
        "sse_kms_key_id",
        "sts_endpoint",
        "unsigned_payload",
        "virtual_hosted_style_request",
        "web_identity_token_file",
    }
)
_S3_NAMES: Final = {
    "endpoint_url": "endpoint",
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
}
_S3_ENCRYPTION: Final = {
    "BucketKeyEnabled": "sse_bucket_key_enabled",
    "RequestPayer": "request_payer",
    "SSEKMSKeyId": "sse_kms_key_id",
    "ServerSideEncryption": "server_side_encryption",
}
_CLIENT_KWARGS: Final = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "endpoint_url": "endpoint",
    "region_name": "region",
}
_SHARED: Final = frozenset({"client_options", "retry_config"})

S3_OPTIONS: Final = (
    _S3_NATIVE
    | _SHARED
    | set(_S3_NAMES)
    | {
        "client_kwargs",
        "config_kwargs",
        "preset",
        "profile",
        "requester_pays",
        "s3_additional_kwargs",
        "use_ssl",
    }
)

#: obstore's ``GCSConfig`` and ``AzureConfig``, as far as users meet them.
_GCS_NATIVE: Final = frozenset(
    {
        "application_credentials",
        "base_url",
        "bearer_token",
        "service_account",
        "service_account_key",
        "skip_signature",
    }
)
GCS_OPTIONS: Final = _GCS_NATIVE | _SHARED | {"endpoint_url", "token"}

_AZURE_NATIVE: Final = frozenset(
    {
        "account_key",
        "account_name",
        "authority_host",
        "client_id",
        "client_secret",
        "endpoint",
        "federated_token_file",
        "msi_endpoint",
        "sas_key",
        "skip_signature",
        "tenant_id",
        "token",
        "use_azure_cli",
        "use_emulator",
    }
)
_AZURE_NAMES: Final = {"endpoint_url": "endpoint", "sas_token": "sas_key"}
AZURE_OPTIONS: Final = _AZURE_NATIVE | _SHARED | set(_AZURE_NAMES) | {"connection_string"}
_CONNECTION_STRING: Final = {
    "AccountKey": "account_key",
    "AccountName": "account_name",
    "BlobEndpoint": "endpoint",
    "SharedAccessSignature": "sas_key",
}

#: A connection is there or not within seconds; a body may take as long as it flows (object_store
#: would give up on any request after 30 s, which is 16 MiB at 0.5 MB/s).
_CLIENT: Final = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "1h"}
#: Seven tries in about six seconds, then the caller hears of it: object_store's ten take three
#: minutes, in which a notebook seems to hang.
_RETRY: Final = {
    "max_retries": 6,
    "backoff": {
        "init_backoff": dt.timedelta(milliseconds=100),
        "max_backoff": dt.timedelta(seconds=5),
        "base": 2,
    },
    "retry_timeout": dt.timedelta(seconds=120),
}


class StoreConfig(NamedTuple):
    """What a store of obstore is made with, but for the bucket."""

    config: dict[str, Any]
    client_options: dict[str, Any]
    retry_config: dict[str, Any]
    #: Which of botocore's profiles names the credentials; None where they are given or obstore's
    #: own chain is to find them.
    profile: str | None = None


def _base(what: str, options: Mapping[str, Any], known: frozenset[str]) -> StoreConfig:
    check_known(what, options, known)
    client = {**_CLIENT, **(options.get("client_options") or {})}
    retry = {**_RETRY, **_durations(options.get("retry_config") or {})}
    return StoreConfig({}, client, retry)


def _durations(given: Mapping[str, Any]) -> dict[str, Any]:
    """Take seconds where obstore wants durations, so that options can be written as JSON."""
    named = ("init_backoff", "max_backoff", "retry_timeout")
    return {
        name: _durations(value)
        if isinstance(value, Mapping)
        else dt.timedelta(seconds=value)
        if name in named and isinstance(value, int | float)
        else value
        for name, value in given.items()
    }


def _allow_http(made: StoreConfig, name: str) -> None:
    if str(made.config.get(name, "")).startswith("http://"):
        made.client_options.setdefault("allow_http", True)


def s3_config(options: Mapping[str, Any]) -> StoreConfig:
    """Translate options as s3fs spells them, or as obstore does.

    Raises
    ------
    ConfigError
        An option, or part of one, that has no meaning here; it is named.

    Examples
    --------
    >>> s3_config({"key": "a", "client_kwargs": {"region_name": "eu-west-1"}}).config
    {'access_key_id': 'a', 'region': 'eu-west-1'}
    """
    made = _base("obs3", options, frozenset(S3_OPTIONS))
    config = made.config
    preset = options.get("preset", "aws")
    check_choice("preset", preset, tuple(PRESETS))
    config.update(PRESETS[preset])
    given = {k: v for k, v in options.items() if v is not None}
    config.update({name: given[name] for name in _S3_NATIVE if name in given})
    config.update({to: given[name] for name, to in _S3_NAMES.items() if name in given})
    _take("client_kwargs", given, _CLIENT_KWARGS, config)
    _take("s3_additional_kwargs", given, _S3_ENCRYPTION, config)
    if given.get("anon"):
        config["skip_signature"] = True
    if given.get("requester_pays"):
        config["request_payer"] = True
    if given.get("use_ssl") is False:
        made.client_options["allow_http"] = True
    _botocore_config(given.get("config_kwargs") or {}, made)
    _allow_http(made, "endpoint")
    return made._replace(profile=given.get("profile"))


def _take(
    option: str, given: Mapping[str, Any], names: Mapping[str, str], config: dict[str, Any]
) -> None:
    for name, value in (given.get(option) or {}).items():
        if name not in names:
            raise _unsupported(f"{option}[{name!r}]", names)
        if value is not None:
            config[names[name]] = value


def _unsupported(option: str, names: Mapping[str, Any]) -> ConfigError:
    known = ", ".join(sorted(names))
    return ConfigError(f"obs3: {option} has no meaning for obstore (known: {known}); use s3://")


def _botocore_config(given: Mapping[str, Any], made: StoreConfig) -> None:
    names = dict.fromkeys(
        ("connect_timeout", "max_pool_connections", "read_timeout", "retries", "s3")
    )
    for name, value in given.items():
        if name not in names:
            raise _unsupported(f"config_kwargs[{name!r}]", names)
        if name in {"connect_timeout", "read_timeout"}:
            made.client_options[name] = f"{round(float(value) * 1000)}ms"
        elif name == "retries":
            tries = value.get("total_max_attempts", value.get("max_attempts"))
            if tries is not None:
                made.retry_config["max_retries"] = int(tries)
        elif name == "s3":
            style = value.get("addressing_style", "auto")
            made.config["virtual_hosted_style_request"] = style == "virtual"
        # max_pool_connections: the Rust client bounds nothing, as many as are asked for go out.


def gcs_config(options: Mapping[str, Any]) -> StoreConfig:
    """Translate options as gcsfs spells them, or as obstore does.

    Raises
    ------
    ConfigError
        An option that has no meaning here.
    """
    made = _base("obgs", options, frozenset(GCS_OPTIONS))
    config = made.config
    given = {k: v for k, v in options.items() if v is not None}
    config.update({name: given[name] for name in _GCS_NATIVE if name in given})
    if "endpoint_url" in given:
        config["base_url"] = given["endpoint_url"]
    token = given.get("token")
    if given.get("anon") or token == "anon":  # noqa: S105 - gcsfs's word for no token
        config["skip_signature"] = True
    elif isinstance(token, str) and token not in {"google_default", "cloud"}:
        config["service_account"] = token
    elif token is not None and not isinstance(token, str):
        message = "obgs: token is 'anon', 'google_default' or the path of a service account's file"
        raise ConfigError(message)
    _allow_http(made, "base_url")
    return made


def azure_config(options: Mapping[str, Any]) -> StoreConfig:
    """Translate options as adlfs spells them, or as obstore does.

    Raises
    ------
    ConfigError
        An option that has no meaning here, or a connection string without an account.
    """
    made = _base("obaz", options, frozenset(AZURE_OPTIONS))
    config = made.config
    given = {k: v for k, v in options.items() if v is not None}
    if "connection_string" in given:
        parts = dict(part.partition("=")[::2] for part in given["connection_string"].split(";"))
        config.update({to: parts[name] for name, to in _CONNECTION_STRING.items() if name in parts})
        if "account_name" not in config and "endpoint" not in config:
            raise ConfigError("obaz: connection_string names no account")
    config.update({name: given[name] for name in _AZURE_NATIVE if name in given})
    config.update({to: given[name] for name, to in _AZURE_NAMES.items() if name in given})
    if given.get("anon"):
        config["skip_signature"] = True
    _allow_http(made, "endpoint")
    return made
