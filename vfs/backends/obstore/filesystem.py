"""``obs3://``, ``obgs://``, ``obaz://``: object stores at the speed of the Rust client.

What lives here: the three providers and what tells them apart. What must not: requests
(``reads.py``, ``base.py``), the translation of options (``options.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from obstore.store import AzureStore, GCSStore, S3Store

from vfs.backends.obstore.base import ObjectStoreFileSystem
from vfs.backends.obstore.client import botocore_credentials
from vfs.backends.obstore.options import StoreConfig, azure_config, gcs_config, s3_config

__all__ = ["AzureFileSystem", "GCSFileSystem", "S3FileSystem"]


class S3FileSystem(ObjectStoreFileSystem):
    """S3 and what speaks it, through obstore.

    Parameters
    ----------
    key, secret, token : str, optional
        Credentials; without them the chain of s3fs users (environment, profiles, SSO, instance)
        if botocore is installed, else obstore's own (environment, container, instance).
    anon : bool, optional
        Send unsigned requests.
    endpoint_url : str, optional
        Another server than AWS.
    profile : str, optional
        One of botocore's.
    client_kwargs, config_kwargs, s3_additional_kwargs, requester_pays, use_ssl : optional
        As for s3fs, as far as they mean something here; anything else is refused by name.
    preset : {"aws", "ceph", "garage", "minio", "r2", "seaweedfs"}, optional
        Defaults for a server.
    client_options, retry_config : dict, optional
        As for obstore, whose own names of options are taken too; durations may be seconds.

    Raises
    ------
    ConfigError
        An option without meaning.

    Notes
    -----
    See :class:`ObjectStoreFileSystem`. Removing one object costs two requests, since S3 does not
    say whether there was one; trees are removed a thousand keys a request.

    Examples
    --------
    >>> fs = S3FileSystem(anon=True, client_kwargs={"region_name": "us-west-2"})
    >>> fs.unstrip_protocol("bucket/key")
    'obs3://bucket/key'
    """

    protocol = "obs3"
    aliases = ("s3", "s3a")
    deletes_silently = True
    #: The Rust client drops it from answers and listings.
    tells_no_storage_class = True
    largest_put_bytes = 5 << 30
    writes_conditionally = True

    @classmethod
    def _translate(cls, options: Mapping[str, Any]) -> StoreConfig:
        return s3_config(options)

    def _maker(self, made: StoreConfig) -> Callable[..., Any]:
        def make(bucket: str, *, config: dict[str, Any], **kwargs: Any) -> Any:
            found = dict(botocore_credentials(made))
            region = found.pop("region", None)
            if region is not None:
                config = {"region": region, **config}
            return S3Store(bucket, config=cast("Any", config), **kwargs, **found)

        return make


class GCSFileSystem(ObjectStoreFileSystem):
    """Google Cloud Storage, through obstore.

    Parameters
    ----------
    token : str, optional
        ``"anon"``, ``"google_default"`` or the path of a service account's file.
    endpoint_url : str, optional
        Another server.
    client_options, retry_config : dict, optional
        As for obstore, whose own names of options are taken too.

    Notes
    -----
    See :class:`ObjectStoreFileSystem`. Conditional writes by etag are not offered: Google's
    compare generations.
    """

    protocol = "obgs"
    aliases = ("gs", "gcs")

    @classmethod
    def _translate(cls, options: Mapping[str, Any]) -> StoreConfig:
        return gcs_config(options)

    def _maker(self, made: StoreConfig) -> Callable[..., Any]:
        del made
        return GCSStore


class AzureFileSystem(ObjectStoreFileSystem):
    """Azure Blob Storage, through obstore; the first part of a path is the container.

    Parameters
    ----------
    account_name, account_key, sas_token, connection_string : str, optional
        As for adlfs.
    anon : bool, optional
        Send unsigned requests.
    endpoint_url : str, optional
        Another server.
    client_options, retry_config : dict, optional
        As for obstore, whose own names of options are taken too.

    Notes
    -----
    See :class:`ObjectStoreFileSystem`. Azure has no suffix ranges; they cost two requests.
    """

    protocol = "obaz"
    aliases = ("az",)
    largest_put_bytes = 5000 << 20
    writes_conditionally = True

    @classmethod
    def _translate(cls, options: Mapping[str, Any]) -> StoreConfig:
        return azure_config(options)

    def _maker(self, made: StoreConfig) -> Callable[..., Any]:
        del made
        return AzureStore
