"""Letters that DejaVu Sans lacks (Chinese, Japanese, Korean, Hindi, Thai, …): an installed font that has them, or their
numbers in their place, where matplotlib would draw boxes."""

import functools
from pathlib import Path

import matplotlib
from matplotlib import font_manager, ft2font

_OWN = "DejaVu Sans"
_PROBES = "中あ한हไবதతಕമગਪଓස例ខລမአ𠀋😀"  # a letter of each script or block


@functools.cache
def families() -> list[str]:
    """For matplotlib's font.family: the house's own, then of the installed fonts those that have scripts it lacks."""
    return [_OWN, *(entry.name for entry, _ in _others())]


def drawable(text: str) -> str:
    """text with each letter that no font of families() has written as \\u4e2d; said once for each such letter."""
    if text.isascii():
        return text
    missing = sorted({char for char in text if char.isprintable() and not _is_drawn(char)})
    _say("".join(missing))
    return text.translate({ord(char): char.encode("ascii", "backslashreplace").decode() for char in missing})


_said: set[str] = set()


def _say(missing: str) -> None:
    new = "".join(char for char in missing if char not in _said)
    if new:
        _said.update(new)
        print(f"Figures: no installed font has {new[:20]}: written as numbers; install one, such as Noto Sans CJK.")


@functools.cache
def _is_drawn(char: str) -> bool:
    own = _opened(font_manager.findfont(_OWN))
    return any(font and font.get_char_index(ord(char)) for font in (own, *(font for _, font in _others())))


@functools.cache
def _others() -> list[tuple[font_manager.FontEntry, ft2font.FT2Font]]:
    """Installed fonts, as few as have a letter of each script; matplotlib's own hold formulas and boxes."""
    own = Path(matplotlib.get_data_path())
    entries = [each for each in font_manager.fontManager.ttflist if not Path(each.fname).is_relative_to(own)]
    upright = [each for each in entries if each.style == "normal" and each.weight in (400, "normal", "regular")]
    found, wanted = [], set(_PROBES)
    for entry in sorted(upright, key=lambda each: ("Sans" not in each.name, each.name, each.fname)):
        font = _opened(entry.fname) if wanted else None
        has = {char for char in wanted if font and font.get_char_index(ord(char))}
        if font and has:
            found.append((entry, font))
            wanted -= has
    return found


def _opened(file: str) -> ft2font.FT2Font | None:
    """The font, or None for one that is gone or damaged since matplotlib listed it."""
    try:
        return font_manager.get_font(file)
    except (OSError, RuntimeError):
        return None
