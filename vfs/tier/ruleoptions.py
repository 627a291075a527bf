"""The option ``rules`` of a tier, checked before any I/O.

What lives here: from what a user wrote to :class:`~vfs.policies.rules.RuleSet`. What must not:
what the rules mean.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from vfs.config.sizes import parse_bytes
from vfs.errors import ConfigError
from vfs.policies.rules import Demotion, Rule, RuleSet
from vfs.tier.plan import Prices

__all__ = ["parse_mapping", "parse_prices", "parse_rules"]

_S = TypeVar("_S", bound=msgspec.Struct)

#: Where in a value msgspec found a fault: ``... - at `$.demote.age_s```.
_WHERE: Final = re.compile(r"(?P<why>.*?)(?: - at `\$(?P<where>[^`]*)`)?", re.DOTALL)


class _Demote(msgspec.Struct, kw_only=True):
    age_s: float | None = None
    larger_than: int | str | None = None
    reads_below: int | None = None
    high_water: float | None = None
    low_water: float | None = None


class _Rule(msgspec.Struct, kw_only=True):
    match: str
    write: Literal["through", "around", "back"] | None = None
    promote: Literal["always", "second", "never"] | None = None
    promote_max_bytes: int | str | None = None
    demote: dict[str, Any] | None = None
    pin: bool | None = None


class _Prices(msgspec.Struct, kw_only=True):
    get_request: float = 0.0
    put_request: float = 0.0
    read_gb: float = 0.0
    write_gb: float = 0.0
    currency: str = "USD"


def parse_prices(prices: object) -> Prices | None:
    """Check the price table a user gave; as :func:`parse_rules`."""
    if prices is None:
        return None
    found = parse_mapping(_Prices, prices, "prices")
    for name in ("get_request", "put_request", "read_gb", "write_gb"):
        if not 0 <= getattr(found, name) < 1e12:
            message = f"prices.{name}: {getattr(found, name)!r} is no price"
            raise ConfigError(message)
    return Prices(**msgspec.structs.asdict(found))


def parse_rules(rules: object) -> RuleSet:
    """Check the rules a user gave.

    Raises
    ------
    ConfigError
        An unknown key or a wrong value; the message says where, as ``rules[1].demote.age_s``.

    Examples
    --------
    >>> parse_rules([{"match": "**", "promot": "never"}])
    Traceback (most recent call last):
        ...
    vfs.errors.ConfigError: rules[0]: unknown key 'promot'; did you mean 'promote'?
    """
    if rules is None:
        return RuleSet()
    if not isinstance(rules, Iterable) or isinstance(rules, Mapping | str | bytes):
        message = f"rules: {rules!r} is not a list of mappings"
        raise ConfigError(message)
    return RuleSet([_rule(number, given) for number, given in enumerate(rules)])


def parse_mapping(kind: type[_S], given: object, where: str) -> _S:
    """Convert a mapping to a record; every fault is a ConfigError that says where it is."""
    if not isinstance(given, Mapping):
        message = f"{where}: {given!r} is not a mapping"
        raise ConfigError(message)
    known = kind.__struct_fields__
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            message = f"{where}: unknown key {name!r}; {hint}"
            raise ConfigError(message)
    try:
        return msgspec.convert(dict(given), kind)
    except msgspec.ValidationError as error:
        found = _WHERE.fullmatch(str(error))
        assert found is not None  # noqa: S101 - every text matches
        why = found["why"].replace("Object missing", "misses")
        message = f"{where}{found['where'] or ''}: {why}"
        raise ConfigError(message) from None


def _rule(number: int, given: object) -> Rule:
    where = f"rules[{number}]"
    rule = parse_mapping(_Rule, given, where)
    if not rule.match:
        message = f"{where}.match: '' is not a glob pattern, as '**/zarr.json' is"
        raise ConfigError(message)
    try:
        RuleSet([Rule(number=number, match=rule.match)])
    except re.error:
        message = f"{where}.match: {rule.match!r} is not a glob pattern"
        raise ConfigError(message) from None
    if rule.pin and rule.demote is not None:
        message = f"{where}: pin and demote contradict each other"
        raise ConfigError(message)
    return Rule(
        number=number,
        match=rule.match,
        write=rule.write,
        promote=rule.promote,
        promote_max_bytes=_size(rule.promote_max_bytes, f"{where}.promote_max_bytes"),
        demote=None if rule.demote is None else _demotion(rule.demote, f"{where}.demote"),
        pin=rule.pin,
    )


def _size(value: object, where: str) -> int | None:
    return None if value is None else parse_bytes(value, where)


def _demotion(given: object, where: str) -> Demotion:
    found = parse_mapping(_Demote, given, where)
    if all(getattr(found, name) is None for name in found.__struct_fields__):
        message = f"{where}: names no condition; give {{'age_s': 0}} to demote whatever is clean"
        raise ConfigError(message)
    for name in ("age_s", "reads_below"):
        value = getattr(found, name)
        # Written so that NaN is refused, too.
        if value is not None and not 0 <= value < 1e12:
            message = f"{where}.{name}: {value!r} is out of range"
            raise ConfigError(message)
    for name in ("high_water", "low_water"):
        value = getattr(found, name)
        if value is not None and not 0 < value <= 1:
            message = f"{where}.{name}: {value!r} is no share of the limit, as 0.9 is"
            raise ConfigError(message)
    high = found.high_water
    low = high if found.low_water is None else found.low_water
    if low is not None and (high is None or low > high):
        message = f"{where}.low_water: {low!r} needs a high_water that is not below it"
        raise ConfigError(message)
    return Demotion(
        age_s=found.age_s,
        larger_than=_size(found.larger_than, f"{where}.larger_than"),
        reads_below=found.reads_below,
        high_water=high,
        low_water=low,
    )
