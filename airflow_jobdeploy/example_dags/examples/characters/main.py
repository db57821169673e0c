#!/usr/bin/env python3
"""Learn to tell what kind of character a Unicode name belongs to: "GREEK SMALL LETTER PI" is a lower-case letter.

A softmax regression on the words of the name, by stochastic gradient descent. Python 3.8+, standard library only.

Written to $JOBDEPLOY_OUTPUT_DIR (else ./output): model.json, metrics.json, report.svg.
$JOBDEPLOY_RESULT_FILE gets {"accuracy": ...}, $JOBDEPLOY_MESSAGES_FILE a JSON line for each epoch.

Told to end by SIGTERM, it finishes its epoch, writes a checkpoint to $JOBDEPLOY_CHECKPOINT_DIR, says so in a message,
and ends; started again with that directory it goes on from there, to the very same model.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from report import draw

DATA = Path(__file__).resolve().parent / "data" / "characters.tsv.gz"
TEST_SHARE = 0.2
#: Category of the Unicode Character Database -> what it is called here. The first match wins.
KINDS = (
    ("Lu", "upper"),
    ("Ll", "lower"),
    ("L", "letter"),
    ("M", "mark"),
    ("N", "number"),
    ("P", "punct"),
    ("S", "symbol"),
)
LABELS = [label for _, label in KINDS]


def kind(category: str) -> int:
    return next(index for index, (prefix, _) in enumerate(KINDS) if category.startswith(prefix))


def read(path: Path = DATA) -> list[tuple[str, int]]:
    """[(name, index of its kind)] in the order of the file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        fields = (line.rstrip("\n").split("\t") for line in lines)
        return [(name, kind(category)) for _, name, category in fields]


def words(name: str) -> list[str]:
    """What the model sees of a name: its words, where it ends, and how long it is."""
    parts = name.replace("-", " ").split()
    return [*parts, "^" + parts[0], parts[-1] + "$", "#%d" % min(len(parts), 6)]


class Model:
    """One weight for each word and kind."""

    def __init__(self, vocabulary: list[str]) -> None:
        self.index = {word: position for position, word in enumerate(vocabulary)}
        self.weights = [[0.0] * len(LABELS) for _ in vocabulary]

    def encode(self, name: str) -> list[int]:
        return [self.index[word] for word in words(name) if word in self.index]

    def probabilities(self, encoded: list[int]) -> list[float]:
        scores = [sum(column) for column in zip(*(self.weights[position] for position in encoded))] or [0.0] * len(
            LABELS
        )
        top = max(scores)
        raised = [math.exp(score - top) for score in scores]
        total = sum(raised)
        return [value / total for value in raised]

    def learn(self, encoded: list[int], label: int, rate: float) -> float:
        """One step down the gradient; the loss before it."""
        probabilities = self.probabilities(encoded)
        steps = [rate * value for value in probabilities]
        steps[label] -= rate
        for position in encoded:
            self.weights[position] = [weight - step for weight, step in zip(self.weights[position], steps)]
        return -math.log(max(probabilities[label], 1e-12))

    def guess(self, encoded: list[int]) -> int:
        probabilities = self.probabilities(encoded)
        return probabilities.index(max(probabilities))


def split(rows: list, seed: int) -> tuple[list, list]:
    """Training rows and test rows: no row is in both, the same seed gives the same two."""
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    cut = int(len(shuffled) * TEST_SHARE)
    return shuffled[cut:], shuffled[:cut]


def vocabulary(rows: list[tuple[str, int]], at_least: int = 2) -> list[str]:
    seen = Counter(word for name, _ in rows for word in words(name))
    return sorted(word for word, times in seen.items() if times >= at_least)


def confusion(model: Model, rows: list[tuple[list[int], int]]) -> list[list[int]]:
    """counts[what it is][what the model said]"""
    counts = [[0] * len(LABELS) for _ in LABELS]
    for encoded, label in rows:
        counts[label][model.guess(encoded)] += 1
    return counts


def share_right(counts: list[list[int]]) -> float:
    return sum(counts[label][label] for label in range(len(LABELS))) / max(1, sum(map(sum, counts)))


def tell(message: dict) -> None:
    """One JSON line for whoever runs this job; nobody listens outside one."""
    path = os.environ.get("JOBDEPLOY_MESSAGES_FILE")
    if path:
        with open(path, "a", encoding="utf-8") as messages:
            messages.write(json.dumps(message) + "\n")


class Checkpoint:
    """What is needed to go on: weights and history so far. Kept in $JOBDEPLOY_CHECKPOINT_DIR, if there is one."""

    #: Epochs between checkpoints that nobody asked for.
    EVERY = 10

    def __init__(self) -> None:
        folder = os.environ.get("JOBDEPLOY_CHECKPOINT_DIR")
        self.path = Path(folder) / "training.json" if folder else None
        self.wanted = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.wanted = True

    def restore(self, model: Model, seed: int) -> list[dict]:
        """Put the weights back; the history so far, empty when there is no checkpoint of such a training."""
        if self.path is None or not self.path.exists():
            return []
        kept = json.loads(self.path.read_text(encoding="utf-8"))
        if kept["seed"] != seed or len(kept["weights"]) != len(model.weights):
            return []
        model.weights = kept["weights"]
        print("going on after epoch %d" % len(kept["history"]), flush=True)
        return kept["history"]

    def keep(self, model: Model, seed: int, history: list[dict]) -> None:
        """After an epoch: write a checkpoint when it is time or somebody asked; end the program in the latter case."""
        if self.path is None or not (self.wanted or len(history) % self.EVERY == 0):
            return
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps({"seed": seed, "weights": model.weights, "history": history}), encoding="utf-8")
        beside.replace(self.path)  # whole, or not there at all
        tell({"type": "checkpoint", "epoch": len(history)})
        if self.wanted:
            sys.exit("told to end: a checkpoint of epoch %d is written" % len(history))


def train(model: Model, training: list, test: list, options: argparse.Namespace, checkpoint: Checkpoint) -> list[dict]:
    """[{"epoch", "loss", "accuracy"}], one an epoch."""
    history = checkpoint.restore(model, options.seed)
    for epoch in range(len(history) + 1, options.epochs + 1):
        # The order of an epoch follows from its number: a training that went on is the same as one that ran through.
        random.Random("%d/%d" % (options.seed, epoch)).shuffle(order := list(training))
        rate = options.learning_rate / math.sqrt(epoch)
        loss = sum(model.learn(encoded, label, rate) for encoded, label in order) / len(order)
        accuracy = share_right(confusion(model, test))
        history.append({"epoch": epoch, "loss": loss, "accuracy": accuracy})
        print("epoch %2d/%d  loss %.4f  accuracy %.2f %%" % (epoch, options.epochs, loss, 100 * accuracy), flush=True)
        tell({"type": "progress", "done": epoch, "total": options.epochs})
        tell({"type": "metric", "step": epoch, "values": {"loss": loss, "accuracy": accuracy}})
        checkpoint.keep(model, options.seed, history)
    return history


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1, not %d" % number)
    return number


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="characters", help="what to call the model")
    parser.add_argument("--epochs", type=positive, default=40)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def save(directory: Path, model: Model, metrics: dict, history: list[dict], counts: list[list[int]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    rounded = {word: [round(weight, 4) for weight in model.weights[at]] for word, at in model.index.items()}
    (directory / "model.json").write_text(json.dumps({"labels": LABELS, "weights": rounded}), encoding="utf-8")
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    (directory / "report.svg").write_text(draw(metrics, history, LABELS, counts), encoding="utf-8")


def measure(options: argparse.Namespace, history: list[dict], counts: list[list[int]]) -> dict:
    test_rows = sum(map(sum, counts))
    return {
        "name": options.name,
        "accuracy": round(share_right(counts), 4),
        # What always saying the most frequent kind would give: the number to beat.
        "baseline": round(max(map(sum, counts)) / test_rows, 4),
        "loss": round(history[-1]["loss"], 4),
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "test_rows": test_rows,
    }


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    began = time.monotonic()
    checkpoint = Checkpoint()
    training, test = split(read(), options.seed)
    model = Model(vocabulary(training))
    print("%d names to learn from, %d to test on, %d words" % (len(training), len(test), len(model.index)), flush=True)
    encoded_test = [(model.encode(name), label) for name, label in test]
    encoded = [(model.encode(name), label) for name, label in training]
    history = train(model, encoded, encoded_test, options, checkpoint)
    counts = confusion(model, encoded_test)
    metrics = {**measure(options, history, counts), "seconds": round(time.monotonic() - began, 1)}
    save(Path(os.environ.get("JOBDEPLOY_OUTPUT_DIR", "output")), model, metrics, history, counts)
    right = {key: metrics[key] for key in ("accuracy", "baseline")}
    if os.environ.get("JOBDEPLOY_RESULT_FILE"):
        Path(os.environ["JOBDEPLOY_RESULT_FILE"]).write_text(json.dumps(right), encoding="utf-8")
    print("accuracy {accuracy:.2%} on names it never saw (baseline {baseline:.2%})".format(**right))


if __name__ == "__main__":
    main()
