"""Which units a scorer's sample holds: a fixed draw per unit, the same for every scorer."""

from __future__ import annotations

from hashlib import blake2b

# Changing it changes every sample: traces near a scorer's rate would be drawn anew.
_KEY = b"vedette.scoring.sample/1"


def draw(unit: str) -> float:
    """The unit's place u in [0, 1): a keyed hash, uniform over units and always the same.

    All scorers use the one u, so a 5 % sample lies inside the 20 % one, and a replay chooses the
    units it chose before.
    """
    digest = blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8, key=_KEY).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53  # 53 bits: exact, and never rounds up to 1
