"""A linear classifier on sparse rows from an svmlight file: which of 2,000 words are in a text, and what it is about.

    python examples/sparse_libsvm.py texts.svm                   # makes the file, by a seed
    estafeta data import texts texts.svm --validation 0.2
    estafeta train examples/sparse_libsvm.py --workers 4

The rows stay sparse, in the store and in a batch: the model gets a sparse CSR tensor, which `nn.Linear` takes as it is.
Classifies held-out rows as well as scikit-learn's LogisticRegression does.
"""

import sys

import numpy as np
from torch import nn

import estafeta

WORDS, TOPICS = 2000, 4


def write(path: str, rows: int = 6000, seed: int = 5) -> None:
    random = np.random.default_rng(seed)
    common = random.dirichlet(np.full(WORDS, 0.1))
    special = random.dirichlet(np.full(WORDS, 0.02), TOPICS)
    with open(path, "w", encoding="ascii") as file:
        for _ in range(rows):
            topic = int(random.integers(TOPICS))
            counts = random.multinomial(random.integers(20, 60), 0.9 * common + 0.1 * special[topic])
            words = np.flatnonzero(counts)
            file.write(f"{topic} " + " ".join(f"{word + 1}:{counts[word]}" for word in words) + "\n")


def model() -> nn.Module:
    return nn.Linear(WORDS, TOPICS)


job = estafeta.Job(
    model=model,
    loss=nn.functional.cross_entropy,
    optimizer=estafeta.AdamW(lr=0.02, weight_decay=0.01, schedule=estafeta.Cosine()),
    dataset="texts",
    batch_size=512,
    micro_batch_size=512,
    epochs=10,
    metrics={"accuracy": estafeta.metrics.accuracy},
    seed=7,
)

if __name__ == "__main__":
    write(sys.argv[1])
