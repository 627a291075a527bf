"""The options of a tier, checked before any I/O.

What lives here: values, defaults and their validation. What must not: opening anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, cast

from fsspec.core import split_protocol

from vfs.config.options import check_choice
from vfs.config.secrets import redact_url
from vfs.config.sizes import parse_bytes
from vfs.core.durable import Durability
from vfs.errors import ConfigError
from vfs.policies.pin import PinSet
from vfs.policies.promotion import PromotionPolicy, PromotionRule
from vfs.policies.rules import RuleSet
from vfs.tier.plan import Prices
from vfs.tier.ruleoptions import parse_prices, parse_rules
from vfs.tier.state import WriteMode

__all__ = [
    "DELAY_S",
    "OPTION_NAMES",
    "QUIET_S",
    "BackOptions",
    "Consistency",
    "TierOptions",
    "hot_directory",
]

#: A range of a larger object is read from cold instead of promoting the whole: at 100 MB/s this
#: is some 0.6 s of waiting for the first byte. Ceph's cache tiering promoted whole objects for
#: 4 KB and was withdrawn for it.
_PROMOTE_MAX_BYTES: Final = 64 << 20

OPTION_NAMES: Final = (
    "cold",
    "cold_options",
    "consistency",
    "delay_s",
    "fo",
    "fs",
    "hot",
    "durability",
    "max_bytes",
    "max_dirty_bytes",
    "max_lag_s",
    "pin",
    "prices",
    "promote",
    "promote_max_bytes",
    "quiet_s",
    "rules",
    "target_options",
    "engine",
    "target_protocol",
    "ttl_s",
    "tiers",
    "under",
    "write",
)

#: Metadata of a zarr node waits until nothing was written below it for this time. Writers put
#: chunks within milliseconds of each other; a second and more means they are done, or resting.
QUIET_S: Final = 2.0

#: An object is sent once it was not written to for this time. Sent at once, every chunk that is
#: written twice goes twice, and a burst of writes shares the processor with its own uploads: 1000
#: chunks of 64 KiB took 3.5 times as long (``benchmarks/writeback.py``). rclone waits 5 s.
DELAY_S: Final = 1.0

Consistency: TypeAlias = Literal["exclusive", "ttl", "open"]

#: As of the cache: long enough that browsing asks little, short enough to wait for.
_TTL_S: Final = 60.0

_LOCAL: Final = (None, "file", "local", "disk")


def hot_directory(hot: object) -> str:
    """Return the absolute directory a ``hot`` option names.

    Raises
    ------
    ConfigError
        Missing, or not a local directory.
    """
    if not isinstance(hot, str | os.PathLike) or not os.fspath(hot):
        message = "tier: hot is missing; name a local directory, as in hot='file:///nvme/hot'"
        raise ConfigError(message)
    protocol, path = split_protocol(os.fspath(hot))
    if protocol not in _LOCAL or "::" in str(hot):
        message = (
            f"tier: hot={redact_url(str(hot))!r} is not a local directory; "
            f"give a path, file:// or disk:// (a hot tier must publish files atomically)"
        )
        raise ConfigError(message)
    if "\0" in path:
        message = "tier: hot contains a NUL character"
        raise ConfigError(message)
    return str(os.path.abspath(os.path.expanduser(path)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOptions:
    """How a tier writes back.

    Parameters
    ----------
    durability : {'power', 'process'}
        What an acknowledged write survives before cold has it.
    max_dirty_bytes : int or None
        Limit of what cold does not have; None is half of the hot tier's.
    max_lag_s : float or None
        Limit of how long cold may be behind.
    quiet_s : float
        How long nothing must have been written below a zarr node before its metadata is sent.
    delay_s : float
        How long an object must not have been written to before it is sent.
    """

    durability: Durability
    max_dirty_bytes: int | None
    max_lag_s: float | None
    quiet_s: float
    delay_s: float

    @classmethod
    def parse(
        cls,
        *,
        durability: object = "power",
        max_dirty_bytes: object = None,
        max_lag_s: object = None,
        quiet_s: object = QUIET_S,
        delay_s: object = DELAY_S,
    ) -> BackOptions:
        """Check what the user gave."""
        limit = None
        if max_dirty_bytes is not None:
            limit = parse_bytes(max_dirty_bytes, "max_dirty_bytes", minimum=1)
        return cls(
            durability=cast("Durability", check_choice("durability", durability, _DURABILITIES)),
            max_dirty_bytes=limit,
            max_lag_s=None if max_lag_s is None else _seconds("max_lag_s", max_lag_s, above=0.0),
            quiet_s=_seconds("quiet_s", quiet_s),
            delay_s=_seconds("delay_s", delay_s),
        )

    def joined(self, other: BackOptions | None) -> BackOptions:
        """Return these options with the stronger durability: instances share one journal."""
        if other is not None and other.durability == "power":
            return replace(self, durability="power")
        return self


_DURABILITIES: Final = ("power", "process")


def _seconds(name: str, value: object, above: float = -1.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < 1e12:
        message = f"{name}: {value!r} is not a number of seconds"
        raise ConfigError(message)
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierOptions:
    """How one tier behaves.

    Parameters
    ----------
    hot : str
        Absolute directory of the hot tier.
    max_bytes : int or None
        Limit of the hot tier; None keeps the recorded one, or half of the disk.
    write : {'through', 'around', 'back'}
        Where a write goes before it is acknowledged.
    promotion : PromotionPolicy
        When a read leaves a hot copy.
    pins : PinSet
        What is never evicted.
    back : BackOptions or None
        Where some write goes back, how.
    rules : RuleSet
        What holds for some keys instead.
    prices : Prices or None
        What the cold store charges, for plans.
    consistency : {'exclusive', 'ttl', 'open'}
        Whether copies are compared with cold before they answer.
    ttl_s : float
        For how long a comparison counts, with "ttl".
    """

    hot: str
    max_bytes: int | None
    write: WriteMode
    promotion: PromotionPolicy
    pins: PinSet
    back: BackOptions | None = None
    rules: RuleSet = field(default_factory=RuleSet)
    prices: Prices | None = None
    consistency: Consistency = "exclusive"
    ttl_s: float = _TTL_S

    @classmethod
    def parse(
        cls,
        *,
        hot: object,
        max_bytes: object = None,
        write: object = "through",
        promote: object = "always",
        promote_max_bytes: object = None,
        pin: object = (),
        rules: object = None,
        prices: object = None,
        consistency: object = "exclusive",
        ttl_s: object = None,
        **back: object,
    ) -> TierOptions:
        """Check what the user gave.

        Raises
        ------
        ConfigError
            A missing or wrong value; the message names the option.
        """
        limit = None if max_bytes is None else parse_bytes(max_bytes, "max_bytes", minimum=1)
        if promote_max_bytes is None:
            largest = _PROMOTE_MAX_BYTES if limit is None else min(_PROMOTE_MAX_BYTES, limit)
        else:
            largest = parse_bytes(promote_max_bytes, "promote_max_bytes")
        given = {name: value for name, value in back.items() if value is not None}
        found = parse_rules(rules)
        goes_back = write == "back" or "back" in found.write_modes
        if given and not goes_back:
            message = f"tier: {', '.join(sorted(given))} means something with write='back' only"
            raise ConfigError(message)
        mode = check_choice("consistency", consistency, ("exclusive", "ttl", "open"))
        if ttl_s is not None and mode != "ttl":
            message = f"ttl_s has no meaning with consistency={mode!r}; give consistency='ttl'"
            raise ConfigError(message)
        rule = check_choice("promote", promote, ("always", "second", "never"))
        return cls(
            hot=hot_directory(hot),
            max_bytes=limit,
            write=cast("WriteMode", check_choice("write", write, ("through", "around", "back"))),
            promotion=PromotionPolicy(cast("PromotionRule", rule), largest),
            pins=PinSet(_patterns(pin)),
            back=BackOptions.parse(**given) if goes_back else None,
            rules=found,
            prices=parse_prices(prices),
            consistency=cast("Consistency", mode),
            ttl_s=_TTL_S if ttl_s is None else _seconds("ttl_s", ttl_s),
        )

    def write_mode(self, key: str) -> WriteMode:
        """Return where a write of a key goes before it is acknowledged."""
        return self.rules.write_mode(key, self.write)

    def promotion_of(self, key: str) -> PromotionPolicy:
        """Return when a read of a key leaves a hot copy."""
        return self.rules.promotion(key, self.promotion)


def _patterns(pin: object) -> list[str]:
    patterns = [pin] if isinstance(pin, str) else pin
    if not isinstance(patterns, Iterable) or isinstance(patterns, Mapping | bytes):
        message = f"pin: {pin!r} is not a list of glob patterns"
        raise ConfigError(message)
    found = list(patterns)
    for pattern in found:
        if not isinstance(pattern, str) or not pattern:
            message = f"pin: {pattern!r} is not a glob pattern, as '**/zarr.json' is"
            raise ConfigError(message)
    return found
