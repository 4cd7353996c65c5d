"""Facts about countries from the package countryinfo, for the demo models."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLAIN = re.compile(r"[^\W\d_]+([ .'-]+[^\W\d_]+)*\.?")


@dataclass(frozen=True)
class Country:
    """Country with all facts that the sentences need."""

    name: str
    capital: str
    currency: str
    population: int
    region: str
    provinces: tuple[str, ...]


def read(folder: Path) -> Sequence[Country]:
    """Return the countries that have all facts, sorted by name."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [
        _country(record) for record in sorted(records, key=lambda record: str(record["name"])) if _has_facts(record)
    ]


def _has_facts(record: dict[str, Any]) -> bool:
    facts = [record.get(fact) for fact in ("currencies", "population", "subregion")]
    return all(facts) and isinstance(record.get("capital"), str) and record["capital"] not in record["name"]


def _country(record: dict[str, Any]) -> Country:
    return Country(
        name=record["name"],
        capital=record["capital"],
        currency=record["currencies"][0],
        population=record["population"],
        region=record["subregion"].removesuffix(" and the Caribbean"),
        provinces=tuple(name for name in record["provinces"] if PLAIN.fullmatch(name)),
    )
