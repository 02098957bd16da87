"""Batch norm over whole batches, also where several processes have a part of each.

    y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias

E and Var are those of the batch in training and moving averages otherwise. A part's own statistics
would be those of a smaller batch, and the model another one for every number of processes.

Shapes: N rows of this process's part of a batch, D features of a row.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb import collectives, processes


class BatchNorm(nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` of (N, D) rows, with the statistics of all processes' rows.

    Values, gradients and moving averages are those of one process that has all rows; in one process
    they are torch's own. A training batch of fewer than two rows has no variance: moving averages
    serve, and stay as they are.

    (``torch.nn.SyncBatchNorm`` trains on GPUs only, and cannot count a row once that several
    processes have.)
    """

    def forward(self, values_ND: Tensor, is_counted_N: Tensor | None = None) -> Tensor:
        """Return normalised rows; in training, for all processes together.

        Every process must call it, also one without rows, and all must run the backward pass.

        Args:
            values_ND: Rows, in floating point.
            is_counted_N: Which of them count in training; by default all. For a row that several
                processes have because each of them needs it, true in one of them: see
                :func:`recemb.collectives.is_first_holder`.
        """
        if not self.training:
            return super().forward(values_ND)
        if processes.world_size() == 1:
            if values_ND.shape[0] < 2:
                return self._by_moving_averages(values_ND)
            return super().forward(values_ND)
        # Sums in half precision would be no statistics.
        fine_ND = values_ND.to(torch.promote_types(values_ND.dtype, torch.float32))
        count, mean_D, variance_D = moments(
            fine_ND if is_counted_N is None else fine_ND[is_counted_N]
        )
        if count < 2:
            return self._by_moving_averages(values_ND)
        self._move_averages(count, mean_D.detach(), variance_D.detach())
        scale_D = (variance_D + self.eps).rsqrt().to(fine_ND.dtype)
        normal_ND = (fine_ND - mean_D.to(fine_ND.dtype)) * scale_D
        if self.affine:
            normal_ND = normal_ND * self.weight + self.bias
        return normal_ND.to(values_ND.dtype)

    def _by_moving_averages(self, values_ND: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        # Copies: the backward pass needs these, and a further batch before it would move them.
        mean_D, variance_D = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(values_ND, mean_D, variance_D, self.weight, self.bias, eps=self.eps)

    @torch.no_grad()
    def _move_averages(self, count: int, mean_D: Tensor, variance_D: Tensor) -> None:
        """Move the averages as torch does: by the variance without bias."""
        mean, variance, batches = self.running_mean, self.running_var, self.num_batches_tracked
        assert mean is not None and variance is not None and batches is not None
        batches.add_(1)
        share = 1 / int(batches) if self.momentum is None else self.momentum
        mean.lerp_(mean_D.to(mean.dtype), share)
        variance.lerp_((variance_D * (count / (count - 1))).to(variance.dtype), share)


def moments(values_ND: Tensor) -> tuple[int, Tensor, Tensor]:
    """Return how many rows all processes have, and their mean and variance: (D,), fp64.

    One message in the forward pass and one in the backward pass; all processes must run both.
    Mean and variance are 0 where there are no rows.
    """
    own_count = values_ND.shape[0]
    own_mean_D = values_ND.sum(0) / max(1, own_count)
    own_square_D = (values_ND - own_mean_D).square().sum(0)
    # In fp64 the squared means, which are added here and subtracted below, cost no digit of the
    # variance, however far from zero the values are.
    own_sum_D = own_count * own_mean_D.double()
    own_count_1 = own_sum_D.new_tensor([own_count])
    own = torch.cat(
        [own_count_1, own_sum_D, own_square_D.double() + own_sum_D * own_mean_D.double()]
    )
    count_1, sum_D, square_D = collectives.sum_over_processes(own).tensor_split(
        [1, 1 + values_ND.shape[1]]
    )
    count = int(count_1)
    mean_D = sum_D / max(1, count)
    return count, mean_D, square_D / max(1, count) - mean_D.square()
