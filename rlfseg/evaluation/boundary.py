"""How well a mask's boundary lies on another's."""

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

#: Of the picture's diagonal: how far an outline may lie from the true one.
TOLERANCE = 0.008


def boundary_f(found: np.ndarray, true: np.ndarray, *, tolerance: float = TOLERANCE) -> float:
    """Return the F-measure of a mask's boundary.

        F = 2 P R / (P + R),    P (R) = share of the found (true) boundary within the tolerance
                                        of the other

    The boundary is the mask's pixels with a neighbour (of four) outside it; the picture's edge
    bounds nothing. Source: D. Martin et al., PAMI 2004, in the form that the DAVIS benchmark
    (F. Perazzi et al., CVPR 2016) uses for masks; there a disk dilates the boundary, which is the
    same as the distance measured here.

    Args:
        found: bool [H, W].
        true: bool [H, W].
        tolerance: of the picture's diagonal, rounded up to whole pixels.

    Returns:
        F in [0, 1]; 1 where neither has a boundary, 0 where one alone has none.

    Raises:
        ValueError: if the masks differ in shape or are not boolean.
    """
    if found.shape != true.shape or found.dtype != np.bool_ or true.dtype != np.bool_:
        raise ValueError(
            f"masks are {found.dtype} {found.shape} and {true.dtype} {true.shape}; they must be "
            "bool (H, W) of one shape"
        )
    reach = np.ceil(tolerance * np.hypot(*found.shape))
    edges = [mask & ~binary_erosion(mask, border_value=1) for mask in (found, true)]
    counts = [np.count_nonzero(edge) for edge in edges]
    if not all(counts):
        return float(counts[0] == counts[1])
    near = [distance_transform_edt(~edge) <= reach for edge in edges]
    precision = np.count_nonzero(edges[0] & near[1]) / counts[0]
    recall = np.count_nonzero(edges[1] & near[0]) / counts[1]
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
