"""Numbers as people read them: three significant digits and a unit.

Bytes are decimal: 1 kB is 1,000 bytes, 1 MB is 1,000,000 bytes. A missing value is a dash, an
infinite SQNR is the word "exact".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

MISSING = "–"
EXACT = "exact"
_MINUS = "\N{MINUS SIGN}"


def format_number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits.

    Very small and very large numbers use powers of ten.

    Example:
        >>> format_number(0.012345), format_number(12345.6), format_number(1.3e-6), format_number(0)
        ('0.0123', '12,346', '1.3e-06', '0')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    sign, size = (_MINUS if value < 0 else ""), abs(value)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e7:
        mantissa, exponent = f"{size:.{digits - 1}e}".split("e")
        return f"{sign}{_trim(mantissa)}e{exponent}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    return sign + _trim(f"{size:,.{decimals}f}")


def format_within(value: float, interval: tuple[float, float] | None) -> str:
    """Return a number and its interval, with no more digits than the interval supports.

    Where there is no interval, three digits.

    Example:
        >>> format_within(0.014712, (0.01213, 0.01752)), format_within(0.9, (0.3, 1.7))
        ('0.0147 (0.0121–0.0175)', '0.9 (0.3–1.7)')
        >>> format_within(2.936e-05, (1.2e-05, 8.31e-05)), format_within(0.014712, None)
        ('3e-05 (1e-05–8e-05)', '0.0147')
    """
    if interval is None or not all(math.isfinite(x) for x in (value, *interval)):
        return format_number(value)
    low, high = interval
    half = (high - low) / 2
    if half <= 0:
        return format_number(value)
    place = math.floor(math.log10(half))
    place -= half < 3 * 10.0**place  # one digit more, or rounding takes a large part of it

    def text(number: float) -> str:
        if number == 0 or abs(number) < 0.5 * 10.0**place:
            return "0"
        return format_number(number, max(1, math.floor(math.log10(abs(number))) - place + 1))

    return f"{text(value)} ({text(low)}–{text(high)})"


def format_span(values: Sequence[float]) -> str:
    """Return the smallest and the largest of some numbers; one number where they read alike.

    Example:
        >>> format_span((0.5, 0.25)), format_span((3, 3))
        ('0.25 to 0.5', '3')
    """
    low, high = format_number(min(values), 4), format_number(max(values), 4)
    return low if low == high else f"{low} to {high}"


def _trim(text: str) -> str:
    """Drop the zeros that end a decimal fraction."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_count(value: int | None) -> str:
    """Return a whole number with thousands separators.

    Example:
        >>> format_count(1234567)
        '1,234,567'
    """
    return MISSING if value is None else f"{value:,}".replace("-", _MINUS)


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Return a count with its noun.

    Example:
        >>> plural(1, "layer"), plural(2048, "channel")
        ('1 layer', '2,048 channels')
    """
    return f"{format_count(count)} {noun if count == 1 else many or noun + 's'}"


def format_bytes(value: float | None) -> str:
    """Return an amount of bytes in B, kB, MB or GB (decimal).

    Example:
        >>> format_bytes(512), format_bytes(12345), format_bytes(3_400_000), format_bytes(-2000)
        ('512 B', '12.3 kB', '3.4 MB', '−2 kB')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    size, unit = abs(value), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    sign = _MINUS if value < 0 else ""
    return f"{sign}{format_number(size)} {unit}"


def format_shrinking(before: int, after: int) -> str:
    """Return how a size changed, as a factor.

    Example:
        >>> format_shrinking(400, 100), format_shrinking(100, 110), format_shrinking(100, 100)
        ('4 × smaller', '1.1 × larger', 'same size')
    """
    if before == after:
        return "same size"
    if not before or not after:
        return MISSING
    if after > before:
        return f"{format_number(after / before)} × larger"
    return f"{format_number(before / after)} × smaller"


def format_db(value: float | None) -> str:
    """Return decibels with one decimal; no error at all is "exact".

    Example:
        >>> format_db(41.234), format_db(-0.04), format_db(math.inf), format_db(None)
        ('41.2 dB', '0.0 dB', 'exact', '–')
    """
    if value is None or math.isnan(value):
        return MISSING
    if value == math.inf:
        return EXACT
    if value == -math.inf:
        return f"{_MINUS}∞ dB"
    return f"{value:z.1f} dB".replace("-", _MINUS)


def percent(share: float | None) -> float | None:
    """Return a share from 0 to 1 in percent."""
    return None if share is None else 100.0 * share


def format_percent(share: float | None) -> str:
    """Return a share from 0 to 1 in percent; never rounds something to nothing or to all.

    Example:
        >>> format_percent(0.1234), format_percent(0.00001), format_percent(0.99999)
        ('12.3 %', '< 0.01 %', '> 99.99 %')
        >>> format_percent(0), format_percent(1), format_percent(0.005)
        ('0 %', '100 %', '0.5 %')
    """
    if share is None or not math.isfinite(share):
        return MISSING
    percent = 100 * share
    if 0 < percent < 0.01:
        return "< 0.01 %"
    if 99.99 < percent < 100:
        return "> 99.99 %"
    decimals = 2 if abs(percent) < 1 or 99 < percent < 100 else 1
    return f"{_trim(f'{percent:.{decimals}f}')} %".replace("-", _MINUS)


def format_relative(value: float | None) -> str:
    """Return an error as a share of the signal, which may be more than all of it.

    Example:
        >>> format_relative(0.704), format_relative(0.0042), format_relative(12.0)
        ('70.4 %', '0.42 %', '1,200 %')
    """
    if value is not None and 1 < value < math.inf:
        return f"{100 * value:,.0f} %"
    return format_percent(value)


def format_accuracy(share: float | None) -> str:
    """Return an accuracy from 0 to 1 in percent, with the two decimals that points have.

    Example:
        >>> format_accuracy(0.9825), format_accuracy(0.995), format_accuracy(None) == MISSING
        ('98.25 %', '99.5 %', True)
    """
    if share is None or not math.isfinite(share):
        return MISSING
    return f"{_trim(f'{100 * share:.2f}')} %"


def format_points(share: float | None) -> str:
    """Return a difference of two shares in percentage points, always with its sign.

    Example:
        >>> format_points(-0.0125), format_points(0.002), format_points(0)
        ('−1.25 points', '+0.2 points', '±0 points')
    """
    if share is None or not math.isfinite(share):
        return MISSING
    text = _trim(f"{abs(100 * share):.2f}")
    if text == "0":
        return "±0 points"
    return f"{'+' if share > 0 else _MINUS}{text} points"


def format_nats(value: float | None, digits: int = 3) -> str:
    """Return a KL divergence with its unit.

    Example:
        >>> format_nats(1.3e-6)
        '1.3e-06 nats'
    """
    return MISSING if value is None or math.isnan(value) else f"{format_number(value, digits)} nats"


def format_ms(value: float | None) -> str:
    """Return a duration in milliseconds with a unit that suits it.

    Example:
        >>> format_ms(0.0421), format_ms(12.34), format_ms(2500)
        ('42.1 µs', '12.3 ms', '2.5 s')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value and abs(value) < 0.1:
        return f"{format_number(value * 1000)} µs"
    if abs(value) >= 1000:
        return f"{format_number(value / 1000)} s"
    return f"{format_number(value)} ms"


def format_shape(shape: Iterable[int]) -> str:
    """Return the sides of a tensor.

    Example:
        >>> format_shape((64, 32, 3, 3)), format_shape(())
        ('64 × 32 × 3 × 3', '–')
    """
    return " × ".join(str(side) for side in shape) or MISSING


def short_names(names: Sequence[str], length: int = 30) -> list[str]:
    """Shorten dotted names by whole parts in their middle, so that no two of them read alike.

    A name that cannot be shortened without reading like another one, or that has no dots, stays
    as it is: a figure makes room for it.

    Args:
        names: Names of layers, all that stand in one figure.
        length: Characters that a name should have at most.

    Example:
        >>> short_names(["encoder.blocks.11.attention.out_proj", "head"], 24)
        ['encoder.blocks…out_proj', 'head']
        >>> short_names([f"encoder.blocks.{i}.attention.out_proj" for i in (1, 2)], 24)
        ['encoder.blocks.1…out_proj', 'encoder.blocks.2…out_proj']
    """
    ways = {name: _shorter(name) for name in names}
    readings = Counter(way for found in ways.values() for way in found)
    labels = []
    for name in names:
        unique = [way for way in ways[name] if readings[way] == 1 and way not in ways]
        fitting = [way for way in unique if len(way) <= length]
        best = max(fitting, key=len) if fitting else min((*unique, name), key=len)
        labels.append(name if len(name) <= length else best)
    return labels


def short_name(name: str, among: Iterable[str], length: int = 30) -> str:
    """Shorten one layer's name so that none of the model's other layers reads like it.

    Example:
        >>> short_name("encoder.blocks.11.attention.out_proj", ["head"], 24)
        'encoder.blocks…out_proj'
    """
    return short_names(list(dict.fromkeys((name, *among))), length)[0]


def _shorter(name: str) -> list[str]:
    """All ways to leave out parts of a name between its first and its last."""
    parts = name.split(".")
    return [
        f"{'.'.join(parts[:head])}…{'.'.join(parts[tail:])}"
        for head in range(1, len(parts) - 1)
        for tail in range(head + 1, len(parts))
    ]
