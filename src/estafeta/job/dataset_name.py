"""Names of data sets: what a job may write instead of a factory."""

import re

DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""Name of a data set in the store, and of its folder."""
BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
"""Names of the data sets that come with scikit-learn: they need no import."""
