"""Logistic regression on a table from a CSV file: numbers, a category, a label in words.

    python examples/tabular_csv.py customers.csv                 # makes the table, by a seed
    estafeta data import customers customers.csv --label bought --standardize --validation 0.2
    estafeta train examples/tabular_csv.py --workers 4

The columns of numbers come as one float32 matrix, those of words as one int64 matrix of codes; `transform` makes one
input of the two. Ends with the weights of scikit-learn's LogisticRegression on the same rows, to a few digits.
"""

import csv
import sys

import numpy as np
import torch
from torch import nn

import estafeta

CITIES = ("Bern", "Oslo", "Riga", "Vilnius")


def write(path: str, rows: int = 20_000, seed: int = 3) -> None:
    random = np.random.default_rng(seed)
    age = random.integers(18, 80, rows)
    income = random.lognormal(10, 0.4, rows).round(2)
    visits = random.poisson(3, rows)
    city = random.integers(0, len(CITIES), rows)
    score = 0.04 * (age - 45) + 3e-5 * (income - 23_000) + 0.3 * (visits - 3) + np.array([0.8, 0.2, -0.3, -0.9])[city]
    bought = random.random(rows) < 1 / (1 + np.exp(-score))
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["age", "income", "visits", "city", "bought"])
        for row in zip(age, income, visits, city, bought, strict=True):
            table.writerow([*row[:3], CITIES[row[3]], "yes" if row[4] else "no"])


def one_hot(numbers: torch.Tensor, codes: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([numbers, nn.functional.one_hot(codes[:, 0], len(CITIES))], 1), target


def model() -> nn.Module:
    return nn.Linear(3 + len(CITIES), 2)


job = estafeta.Job(
    model=model,
    loss=nn.functional.cross_entropy,
    optimizer=estafeta.AdamW(lr=0.05, weight_decay=0, schedule=estafeta.Cosine()),
    dataset="customers",
    transform=one_hot,
    batch_size=1024,
    micro_batch_size=1024,
    epochs=8,
    metrics={"accuracy": estafeta.metrics.accuracy},
    seed=7,
)

if __name__ == "__main__":
    write(sys.argv[1])
