"""What stands beside every method: the most frequent class, and a linear probe."""

import math

import pandas as pd

from missviz.experiments.tasks_on_networks import Task
from missviz.networks.packages import require
from missviz.networks.sentence_network import SentenceNetwork, features

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the probe's C, which is 1/ridge, on standardised features; chosen on the validation split."""


def baselines(network: SentenceNetwork, task: Task, *, batch_size: int = 64) -> pd.DataFrame:
    """Accuracy and loss of what trains nothing inside `network`, on every split of `task`.

    "majority" always says the split's own most frequent class, with the split's own frequencies as
    its probabilities: no constant does better. "linear probe" is logistic regression on the pooled
    features of the training split, standardised, with the ridge of least validation loss. Both
    depend on the task alone, no seed.

    Returns one row per method and split: method, split, n, accuracy, loss (nats per example).
    """
    require("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    targets = {name: split.targets.numpy() for name, split in task.splits.items()}
    pooled = {
        name: features(network, split.inputs, batch_size).double().numpy()
        for name, split in task.splits.items()
    }
    mean, spread = pooled["train"].mean(0), pooled["train"].std(0)
    standard = {name: (part - mean) / spread for name, part in pooled.items()}
    labels = list(range(task.outputs))

    def loss(probe: LogisticRegression, name: str) -> float:
        return float(log_loss(targets[name], probe.predict_proba(standard[name]), labels=labels))

    probes = [
        LogisticRegression(C=strength, max_iter=1000).fit(standard["train"], targets["train"])
        for strength in STRENGTHS
    ]
    probe = min(probes, key=lambda probe: loss(probe, "valid"))
    rows = []
    for name, target in targets.items():
        shares = [float((target == label).mean()) for label in labels]
        entropy = -sum(share * math.log(share) for share in shares if share)
        accuracy = float(probe.score(standard[name], target))
        n = len(target)
        rows.append(("majority", name, n, max(shares), entropy))
        rows.append(("linear probe", name, n, accuracy, loss(probe, name)))
    table = pd.DataFrame(rows, columns=["method", "split", "n", "accuracy", "loss"])
    return table.sort_values("method", ascending=False, kind="stable", ignore_index=True)
