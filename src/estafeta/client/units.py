"""Numbers as people read them: bytes, dollars, lengths of time, metrics. Pure."""


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(size: float) -> str:
    """Bytes in a unit that leaves one to four digits before the point."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:  # larger sizes would round to 1000
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def dollars(amount: float) -> str:
    """An amount of money; small ones have more decimals."""
    return f"${amount:.6f}" if amount < 0.01 else f"${amount:,.2f}"


def number(value: float) -> str:
    """A metric in at most ten characters or so: four decimals, or three digits and an exponent."""
    return f"{value:.2e}" if value and not 1e-3 <= abs(value) < 1e5 and abs(value) < float("inf") else f"{value:.4f}"


def clock(seconds: float) -> str:
    """A length of time as mm:ss or h:mm:ss; at least 00:00."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def ago(seconds: float) -> str:
    """The time since an event, in one unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"
