"""From three colour channels to one grey channel."""

from torch import Tensor


def sum_channels(weight: Tensor) -> Tensor:
    """Fold a convolution over red, green and blue into one over grey.

    A convolution is linear, so three equal input channels through ``weight`` give the same numbers as one channel
    through the sum of ``weight`` over its input channels. Exact but for rounding, as long as the same offset is taken
    from all three channels.

    Parameters
    ----------
    weight
        ``(outputs, 3, D, H, W)``.

    Returns
    -------
    Tensor
        ``(outputs, 1, D, H, W)``; summed in float64.
    """
    return weight.double().sum(dim=1, keepdim=True).to(weight.dtype)
