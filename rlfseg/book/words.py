"""Sentences about numbers, made by the run that has them."""


def compared(gain: float, interval: tuple[float, float], *, unit: str = "points") -> str:
    """Say by how much one thing is ahead of another.

    Args:
        gain: how much; negative if it is behind.
        interval: its ends.
        unit: of all three.

    Returns:
        As in `4.1 points ahead (2.9 to 5.2)`, `4.1 points behind (2.9 to 5.2)`, or, where the
        interval holds nought, `not to be told apart from it (-0.3 to +0.5 points)`.
    """
    low, high = interval
    if low <= 0 <= high:
        return f"not to be told apart from it ({low:+.1f} to {high:+.1f} {unit})"
    ends = sorted((abs(low), abs(high)))
    side = "ahead" if gain > 0 else "behind"
    return f"{abs(gain):.1f} {unit} {side} ({ends[0]:.1f} to {ends[1]:.1f})"
