"""Sentences about numbers, made by the run that has them."""

from collections.abc import Iterable, Mapping, Sequence

from rlfseg.evaluation.seeds import Gain, mean_gain


def compared(gain: float, interval: tuple[float, float], *, unit: str = "points") -> str:
    """Say by how much one thing is ahead of another.

    Args:
        gain: how much; negative if it is behind.
        interval: its ends.
        unit: of all three.

    Returns:
        As in `4.1 points ahead (2.9 to 5.2)`, `4.1 points behind (2.9 to 5.2)`, or, where the
        interval holds nought, `not told apart (0.1 points ahead, -0.3 to +0.5)`; with two decimals
        where all is below a fifth.
    """
    low, high = interval
    near, far = sorted((abs(low), abs(high)))
    digits = 1 if far >= 0.2 else 2
    size = f"{abs(gain):.{digits}f} {unit} {'ahead' if gain > 0 else 'behind'}"
    if low <= 0 <= high:
        return f"not told apart ({size}, {low:+.{digits}f} to {high:+.{digits}f})"
    return f"{size} ({near:.{digits}f} to {far:.{digits}f})"


def over_all_seeds(gains: Sequence[float]) -> str:
    """Say the same of the gains, in points, of runs that differ in their seed.

    Of one seed there is no interval, which is said.
    """
    if len(gains) == 1:
        return f"{abs(gains[0]):.1f} points {'ahead' if gains[0] > 0 else 'behind'} (one seed)"
    return compared(*mean_gain(gains))


def verdict(gains: Iterable[Gain]) -> str:
    """Say whether a claim held, of the gains that it promises.

    Returns:
        `held` if all are ahead, `held in part` if some are, with `, in part the opposite` if others
        are behind; `did not hold` if none is ahead and some are behind, `not told apart` if neither
        is, and `not run here` of none. One whose interval holds nought, or that has none, is
        neither ahead nor behind.
    """
    ends = [interval for _, interval in gains]
    if not ends:
        return "not run here"
    ahead, behind = [low > 0 for low, _ in ends], any(high < 0 for _, high in ends)
    if all(ahead):
        return "held"
    if any(ahead):
        return "held in part" + ", in part the opposite" * behind
    return "did not hold" if behind else "not told apart"


def listed(said: Mapping[str, str]) -> str:
    """Say several things, each after its name: `a: 1; b: 2`."""
    return "; ".join(f"{name}: {each}" for name, each in said.items())
