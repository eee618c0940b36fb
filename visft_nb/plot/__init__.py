"""Pictures in one style, each with words. Public names are loaded when first used."""
import warnings

import lazy_loader as lazy

from visft_nb.checks import old_names

_load, __dir__, __all__ = lazy.attach(__name__, submod_attrs={
    "pictures": ["COLORS", "FigureImage", "MARKERS", "STYLE", "figure", "picture",
                 "show", "show_images"],
    "history": ["LivePlot", "plot_history", "running_mean", "watched"],
    "charts": ["plot_confusion", "plot_curves", "plot_embedding", "plot_intervals",
               "plot_reliability"],
})


def _find(name):
    if name not in ("html_image", "html_page", "html_table"): return _load(name)
    from visft_nb import report
    warnings.warn(
        f"visft_nb.plot.{name} is now visft_nb.report.{name}; the old place will go.",
        DeprecationWarning, stacklevel=2)
    return getattr(report, name)


__getattr__ = old_names(__name__, _find, Picture='FigureImage')
