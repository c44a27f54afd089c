"""From three colour channels to one grey channel."""

from torch import Tensor

from cryoclass.backbones.spec import Scale, State, Stem


def grey_stem(state: State, stem: Stem, scale: Scale | None) -> State:
    """Return the tensors of a network over red, green and blue as those of one over grey.

    Without ``scale``, the three channels are taken to have been equal: exact but for rounding.

    With ``scale``, the network over colours was shown ``(v - mean_c) / std_c`` in channel c, where ``v`` is the grey value
    from 0 to ``highest``; the network over grey will be shown one channel, with the average mean and deviation
    (:attr:`Scale.limits`). What the means differ by is constant, and goes into ``stem.offset``. That is exact where the
    means are equal, and where the stem sees no padding. Behind a zero-padded convolution it is exact but for the rim:
    there some taps see padding, which has no offset, yet theirs is included. Measured with random weights in the stem of the
    3D ResNets at 32x128x128, for the scales of 2018, of 2020 and of torchvision: 0.8 % of the deviation of the stem's
    output on average, against 4 to 5 % with no offset at all.

    Parameters
    ----------
    state
        Tensors by name, with three channels in ``stem.weight``.
    stem
        Which tensors see the colours.
    scale
        What the network was shown; None for three equal channels.
    """
    weight = state[stem.weight]
    if scale is None:
        return {**state, stem.weight: sum_channels(weight)}
    factors = [scale.grey_std / std for std in scale.std]
    shifts = [(scale.grey_mean - mean) / std for mean, std in zip(scale.mean, scale.std, strict=True)]
    constant = (weight.double().sum(dim=(2, 3, 4)) * weight.new_tensor(shifts).double()).sum(dim=1)
    if stem.offset.endswith("running_mean"):
        constant = -constant  # batch normalisation subtracts its mean
    return {
        **state,
        stem.weight: sum_channels(weight, factors),
        stem.offset: (state[stem.offset].double() + constant).to(weight.dtype),
    }


def sum_channels(weight: Tensor, factors: list[float] | None = None) -> Tensor:
    """Fold a convolution over red, green and blue into one over grey.

    A convolution is linear, so three equal input channels through ``weight`` give the same numbers as one channel
    through the sum of ``weight`` over its input channels.

    Parameters
    ----------
    weight
        ``(outputs, 3, D, H, W)``.
    factors
        What each channel is multiplied with before the sum; 1 where left out.

    Returns
    -------
    Tensor
        ``(outputs, 1, D, H, W)``; summed in float64.
    """
    exact = weight.double()
    if factors is not None:
        exact = exact * exact.new_tensor(factors)[:, None, None, None]
    return exact.sum(dim=1, keepdim=True).to(weight.dtype)
