"""The picture of a training run: the loss as a curve, the mistakes as a matrix. One SVG, no library."""

from __future__ import annotations

WIDTH, HEIGHT = 900, 430
INK, PALE, LINE = "#1f2937", "#9ca3af", "#2563eb"


def draw(metrics: dict, history: list[dict], labels: list[str], counts: list[list[int]]) -> str:
    """The SVG as text."""
    title = "%s: %.1f %% right on %d unseen names" % (metrics["name"], 100 * metrics["accuracy"], metrics["test_rows"])
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="%s">'
        % (WIDTH, HEIGHT, INK),
        '<rect width="%d" height="%d" fill="white"/>' % (WIDTH, HEIGHT),
        text(30, 34, title, size=18),
        *curve(history, left=60, top=80, width=330, height=280),
        *matrix(labels, counts, left=530, top=80, cell=40),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def text(x: float, y: float, content: str, size: int = 12, anchor: str = "start", fill: str = INK) -> str:
    safe = str(content).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return '<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s" fill="%s">%s</text>' % (
        x,
        y,
        size,
        anchor,
        fill,
        safe,
    )


def curve(history: list[dict], left: float, top: float, width: float, height: float) -> list[str]:
    losses = [entry["loss"] for entry in history]
    high = max(losses) or 1.0
    step = width / max(1, len(losses) - 1)
    points = [(left + step * n, top + height * (1 - loss / high)) for n, loss in enumerate(losses)]
    path = " ".join("%.1f,%.1f" % point for point in points)
    axis = '<path d="M%d %d V%d H%d" fill="none" stroke="%s"/>' % (left, top, top + height, left + width, PALE)
    line = '<polyline points="%s" fill="none" stroke="%s" stroke-width="2.5"/>' % (path, LINE)
    dots = ['<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>' % (x, y, LINE) for x, y in points]
    labels = [
        text(left, top - 12, "loss on the training names"),
        text(left - 8, top + 5, "%.2f" % high, anchor="end", fill=PALE),
        text(left - 8, top + height + 4, "0", anchor="end", fill=PALE),
        text(left, top + height + 20, "epoch 1", fill=PALE),
        text(left + width, top + height + 20, "epoch %d" % len(losses), anchor="end", fill=PALE),
        text(points[-1][0], points[-1][1] - 10, "%.3f" % losses[-1], anchor="end"),
    ]
    return [axis, line, *dots, *labels]


def matrix(labels: list[str], counts: list[list[int]], left: float, top: float, cell: float) -> list[str]:
    parts = [text(left, top - 12, "what it is (rows), what the model said (columns), %")]
    for row, (label, line) in enumerate(zip(labels, counts)):
        total = max(1, sum(line))
        parts.append(text(left - 8, top + cell * row + cell / 2 + 4, label, anchor="end"))
        for column, count in enumerate(line):
            parts += square(left + cell * column, top + cell * row, cell, count / total)
    bottom = top + cell * len(labels) + 16
    parts += [text(left + cell * (n + 0.5), bottom, label, size=10, anchor="middle") for n, label in enumerate(labels)]
    return parts


def square(x: float, y: float, cell: float, share: float) -> list[str]:
    fill = '<rect x="%d" y="%d" width="%d" height="%d" fill="%s" fill-opacity="%.3f" stroke="white"/>' % (
        (x, y, cell, cell, LINE, max(share, 0.03))
    )
    number = "%.0f" % (100 * share) if share >= 0.005 else ""
    return [fill, text(x + cell / 2, y + cell / 2 + 4, number, anchor="middle", fill="white" if share > 0.5 else INK)]
