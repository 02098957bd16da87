#!/usr/bin/env bash
# torchmetrics 1.9.0 with torch 2.13.0: BinaryAUROC guesses, anew in every update, whether it was given
# logits (any value outside 0..1) or probabilities, and passes the former through a float32 sigmoid.
# 1. Logits of 20 to 40 in perfect order have AUC .5: above about 17 the sigmoid is 1 in float32, and
#    all tie. (AUC needs no sigmoid: it is a matter of ranks.)
# 2. Logits that all lie in 0..1 in one batch are taken for probabilities there, and for logits in
#    the next batch: the same 2,000 perfectly ordered logits have AUC 1 in one update and .93 in updates of 100.
# Pass ranks or probabilities computed in float64 over the whole set instead.
# Fails if the .5 or the .93 goes up.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torchmetrics.classification import BinaryAUROC


def auc(logits, labels, batch):
    metric = BinaryAUROC()
    for first in range(0, len(logits), batch):
        metric.update(logits[first : first + batch], labels[first : first + batch])
    return float(metric.compute())


labels = (torch.arange(2000) >= 1000).long()
large = torch.linspace(20, 40, 2000)
print("logits of 20 to 40 in perfect order:", auc(large, labels, 2000))
assert auc(large, labels, 2000) < 0.6
logits = torch.linspace(-1, 3, 2000)
print("logits of -1 to 3 in perfect order, one update:", auc(logits, labels, 2000))
print("the same in updates of 100:", auc(logits, labels, 100))
assert auc(logits, labels, 2000) > 0.9999
assert auc(logits, labels, 100) < 0.95
PYTHON
