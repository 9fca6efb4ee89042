"""Words that every room puts into its sentences."""


def how_many(count: int, noun: str) -> str:
    """Write a count with its noun: `1 trial`, `1,000 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
