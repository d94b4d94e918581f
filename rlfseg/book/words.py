"""Sentences about numbers, made by the run that has them."""

from collections.abc import Sequence

from rlfseg.evaluation.seeds import over_seeds


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


def over_all_seeds(gains: Sequence[float]) -> str:
    """Say the same of the gains, in points, of runs that differ in their seed.

    Of one seed there is no interval, which is said.
    """
    if len(gains) == 1:
        return f"{abs(gains[0]):.1f} points {'ahead' if gains[0] > 0 else 'behind'} (one seed)"
    mean, half = over_seeds(gains)
    return compared(mean, (mean - half, mean + half))
