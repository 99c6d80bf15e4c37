"""What all pictures share: colours that everybody tells apart, sizes for print, axes without a display."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito 2008: told apart with every common colour vision, and as greys."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
WIDE = 7.2
"""Inches: a page of two columns is not wider."""
SMALL = 7
"""Points: the smallest letters that are read in print."""
JS = "Jensen-Shannon divergence (nats)"


def new_axes(width: float, height: float) -> "Axes":
    """Axes alone on a figure of that size in inches.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib; pip install 'mutation-decode[plots]'.") from error
    # A Figure of its own: no display, and nothing for pyplot to keep open.
    return Figure(figsize=(width, height), dpi=150, layout="constrained").add_subplot()


def whole_numbers(axes: "Axes", last: int) -> None:
    """Ticks at whole layers of 0..last only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=min(last, 3)))
