"""When two pixel sizes, or two extents, are one and the same: the rule of one per cent."""

TOLERANCE = (
    0.01  # programs write pixel sizes with three digits, and binning rounds; more than that blurs a fit
)


def agree(*sizes: float) -> bool:
    """Say whether lengths in angstroms, all above 0, differ by at most 1 % of the smallest."""
    return max(sizes) / min(sizes) - 1 <= TOLERANCE
