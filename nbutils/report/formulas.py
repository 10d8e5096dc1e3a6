"""Formulas as embedded SVG images, drawn by matplotlib: a page without scripts cannot use MathJax."""

import base64
import functools
import io
import re
import warnings

from markupsafe import Markup


@functools.lru_cache(maxsize=256)
def formula(latex: str, display: bool) -> Markup:
    """A formula as an embedded SVG, one image a line; as code where matplotlib cannot draw it."""
    lines = [line for line in re.split(r"\\\\", _mathtext(latex)) if line.strip()]
    try:
        drawn = [_draw(line.strip(), latex, display) for line in lines]
    except ValueError:
        return Markup("<code>{}</code>").format(latex.strip())
    return Markup(" ").join(drawn)


def _mathtext(latex: str) -> str:
    """LaTeX without what matplotlib's mathtext does not know and a single line does not need."""
    latex = re.sub(r"\\(?:begin|end)\{(?:aligned|align|equation|split)\*?\}|(?<!\\)&|\\label\{[^}]*\}", " ", latex)
    latex = re.sub(r"\\tag\{([^}]*)\}", r"\\qquad (\1)", latex)
    latex = re.sub(r"\\(?:big|Big|bigg|Bigg)[lrm]?(?![A-Za-z])", "", latex)
    latex = latex.replace(r"\tfrac", r"\frac").replace(r"\lVert", r"\|").replace(r"\rVert", r"\|")
    return " ".join(latex.split())


def _draw(line: str, latex: str, display: bool) -> Markup:
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    file, size = io.BytesIO(), 12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missing glyph is drawn as a box: no reason to write to the terminal
        depth = math_to_image(f"${line}$", file, prop=FontProperties(size=size, math_fontfamily="cm"), format="svg")
    svg = re.sub(rb"<metadata>.*?</metadata>", b"", file.getvalue(), flags=re.DOTALL)
    height = float(re.findall(rb'height="([\d.]+)pt"', svg)[0])
    kind = "math display" if display else "math"
    style = f"height:{height / size:.3f}em;vertical-align:{-depth / size:.3f}em"
    encoded = base64.b64encode(svg).decode("ascii")
    template = '<img class="{}" style="{}" src="data:image/svg+xml;base64,{}" alt="{}">'
    return Markup(template).format(kind, style, encoded, " ".join(latex.split()))
