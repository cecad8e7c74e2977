"""Metrics with scikit-learn's names: `metric(output, target)` gives one value for each row, or the mean."""

import torch


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Fraction of rows whose class is right.

    Args:
        output: float[n, classes], scores; or float[n] (or [n, 1]), logits of a binary class.
        target: int[n] class numbers; for logits also float[n] of 0 and 1.

    Returns:
        0-d tensor, the mean over the rows.
    """
    predicted = (output.reshape(len(output)) > 0).to(target.dtype) if _is_binary(output) else output.argmax(1)
    return (predicted == target.reshape(predicted.shape)).double().mean()


def mean_squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of the squared differences; output and target have the same number of elements, any float dtype."""
    return (output.reshape(-1).double() - target.reshape(-1).double()).square().mean()


def mean_absolute_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of the absolute differences; output and target have the same number of elements, any float dtype."""
    return (output.reshape(-1).double() - target.reshape(-1).double()).abs().mean()


def _is_binary(output: torch.Tensor) -> bool:
    return output.dim() == 1 or output.shape[1:] == (1,)
