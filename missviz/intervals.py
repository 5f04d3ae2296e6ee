"""The one kind of interval that missviz draws and prints: Student's t, over seeds."""

import numpy as np
from jaxtyping import Float


def half_width(values: Float[np.ndarray, "seeds ..."]) -> Float[np.ndarray, "..."]:
    """Half of the 95 % interval of the mean over seeds, t₀.₉₇₅ s/√n with n − 1 degrees of freedom.

    The interval is mean ± this. For a paired comparison, `values` are differences seed by seed.
    NaN for fewer than two seeds, and where a value is not finite.
    """
    from scipy.special import stdtrit  # scipy.stats takes longer to load than a race to train

    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    if count < 2:
        return np.full(values.shape[1:], np.nan)
    with np.errstate(invalid="ignore"):
        spread = values.std(axis=0, ddof=1)
    return stdtrit(count - 1, 0.975) * spread / np.sqrt(count)
