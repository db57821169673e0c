#!/usr/bin/env python3
"""Learn what kind of character a Unicode name belongs to, with scikit-learn.

    train.py [--alpha 1e-5] [--ngrams 4] [--epochs 4]

Reads names.tsv (name, tab, category; a line each) in $JOBDEPLOY_DATASET_DIR, writes model.joblib and metrics.json to
$JOBDEPLOY_OUTPUT_DIR. A name is a test name or not by its own hash: whatever is added to the data later, what a model
was tested on it was never trained on, and two models are compared on the same names.
"""

from __future__ import annotations

import argparse
import json
import os
import zlib
from pathlib import Path

import joblib
import sklearn
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import shuffle

TEST_IN = 5


def tell(**message: object) -> None:
    """One JSON line for whoever runs this job; nobody listens outside one."""
    path = os.environ.get("JOBDEPLOY_MESSAGES_FILE")
    if path:
        with open(path, "a", encoding="utf-8") as messages:
            messages.write(json.dumps(message) + "\n")


def read(folder: Path) -> tuple[list, list]:
    """(rows to learn from, rows to test on), each (name, category)."""
    training, test = [], []
    for line in (folder / "names.tsv").read_text(encoding="utf-8").splitlines():
        name, category = line.split("\t")
        (training if zlib.crc32(name.encode()) % TEST_IN else test).append((name, category))
    return training, test


def train(options: argparse.Namespace, training: list, test: list) -> tuple[Pipeline, float]:
    """The model, and its share of right answers on the test names."""
    vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(2, options.ngrams), n_features=2**16)
    model = SGDClassifier(loss="log_loss", alpha=options.alpha, random_state=1)
    names, labels = zip(*training)
    features, expected = vectorizer.transform(names), list(labels)
    tested, right = vectorizer.transform([name for name, _ in test]), [label for _, label in test]
    accuracy = 0.0
    for epoch in range(1, options.epochs + 1):
        model.partial_fit(*shuffle(features, expected, random_state=epoch), classes=sorted(set(expected)))
        accuracy = float(model.score(tested, right))
        print("epoch %d/%d  accuracy %.2f %%" % (epoch, options.epochs, 100 * accuracy), flush=True)
        tell(type="progress", done=epoch, total=options.epochs)
        tell(type="metric", name="accuracy", value=accuracy, step=epoch)
    return make_pipeline(vectorizer, model), accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alpha", type=float, default=1e-5, help="how strongly weights are held small")
    parser.add_argument("--ngrams", type=int, default=4, help="the longest piece of a word that is looked at")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    training, test = read(Path(os.environ.get("JOBDEPLOY_DATASET_DIR", "data")))
    print("%d names to learn from, %d to test on, scikit-learn %s" % (len(training), len(test), sklearn.__version__))
    model, accuracy = train(options, training, test)
    output = Path(os.environ.get("JOBDEPLOY_OUTPUT_DIR", "output"))
    output.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, output / "model.joblib", compress=3)
    metrics = {
        "accuracy": round(accuracy, 4),
        "test_names": len(test),
        "alpha": options.alpha,
        "ngrams": options.ngrams,
    }
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    tell(type="artifact", path="model.joblib", text="%.2f %% right" % (100 * accuracy))
    tell(type="asset", uri="jobdeploy://names/candidate", extra=metrics)


if __name__ == "__main__":
    main()
