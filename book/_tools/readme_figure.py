"""Draw the README's figure from the ledger's record: accuracy against the budget, all seeds."""

import sys

import vl_convert
from book_config import ROOT

sys.path.insert(0, str(ROOT))

from ntklab import charts, ledger
from ntklab._common import write_atomically

FIGURE = ROOT / "book" / "_static" / "readme_figure.png"
CURVES = {
    "noise_by_eps": "random signs",
    "eq8_by_eps": "equation 8, one step",
    "eq20_by_eps": "equation 20 with offsets, one step",
    "pgd10_by_eps": "PGD, 10 steps",
}


def main() -> None:
    """Write the PNG and say from which record."""
    run = ledger.value("tk-s1-mnist", "eq8", "book").run
    budgets = run.curves["eq8_by_eps"]["x"]
    curves = {label: run.curves[name]["y"] for name, label in CURVES.items() if name in run.curves}
    chart = charts.accuracy_curves(
        budgets, curves, x_title="budget (largest change of a pixel)", y_title="accuracy on MNIST"
    )
    charts.register()
    words = (
        "Accuracy of a kernel machine on MNIST against the budget: random signs hardly lower it, "
        "single steps computed from the kernel bring it to zero."
    )
    spec = charts.finish(chart.properties(width=560), words).to_dict() | {"width": 560}
    png = vl_convert.vegalite_to_png(spec, scale=2, config=charts.theme.config())
    write_atomically(FIGURE, png)
    print(f"{FIGURE.relative_to(ROOT)} drawn from {run.file}")


if __name__ == "__main__":
    main()
