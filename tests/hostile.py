"""Text that a model or a data set could put into an output, and a parser that finds what is active in a page."""

import html.parser
import json

NOWHERE = "http://127.0.0.1:9"
HOSTILE_HTML = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    f"<img src='{NOWHERE}/beacon.png' srcset='{NOWHERE}/b.png 2x'>",
    f"<iframe src='{NOWHERE}'></iframe><object data='{NOWHERE}'></object><embed src='{NOWHERE}'>",
    "<a href='javascript:alert(1)'>x</a><a href=' java\nscript:alert(1)'>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<svg onload=alert(1)><script>alert(1)</script><use href='data:image/svg+xml,x#y'/></svg>",
    f"<style>@import '{NOWHERE}/x.css'; body {{ background: url({NOWHERE}/x.png) }}</style>",
    f"<td style='background:url({NOWHERE}/x.png)' background='{NOWHERE}/y.png'>x</td>",
    f"<link rel=stylesheet href='{NOWHERE}/x.css'><base href='{NOWHERE}'>",
    f"<meta http-equiv=refresh content='0;{NOWHERE}'>",
    f"<form action='{NOWHERE}'><button formaction='javascript:alert(1)'>x</button></form>",
    "<input autofocus onfocus=alert(1)>",
    f"<video poster='{NOWHERE}/x' src='{NOWHERE}/y' autoplay></video><audio src='{NOWHERE}/z' autoplay></audio>",
    "<details open ontoggle=alert(1)><summary>x</summary></details><marquee onstart=alert(1)>x</marquee>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
    "</pre></td></table></style></title><script>alert(1)</script>",
    "<img alt='a><b onclick=alert(1)>x</b>'>",
)
HOSTILE_MARKDOWN = (
    "[x](javascript:alert(1)) [y](JaVaScRiPt:alert(1)) <javascript:alert(1)>",
    f"![x]({NOWHERE}/beacon.png) ![y](javascript:alert(1))",
    "```mermaid\ngraph TD; A-->B; click A call alert(1)\n```",
    f"[x]: {NOWHERE}/a.png\n\n![x]",
    r"$\href{javascript:alert(1)}{x}$ and $$<script>alert(1)</script>$$",
    *HOSTILE_HTML,
)
_ACTIVE = {"script", "iframe", "frame", "object", "embed", "applet", "link", "base", "form", "input", "button", "video"}
_ACTIVE |= {"audio", "svg", "math", "template", "portal", "source", "track", "marquee"}
_LOADS = {"src", "srcset", "background", "poster", "data", "action", "formaction", "ping", "xlink:href", "manifest"}


class _Finder(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.in_style, self.texts = [], False, []

    def handle_starttag(self, tag, attrs):
        self.in_style = tag == "style"
        if tag in _ACTIVE:
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            text = "".join((value or "").split()).lower()
            if name in ("alt", "title"):
                continue  # text, whatever it says
            if name.startswith("on") or "javascript:" in text or "vbscript:" in text:
                self.found.append(f"<{tag} {name}>")
            elif name in _LOADS and not text.startswith("data:image/"):
                self.found.append(f"<{tag} {name}={text[:40]}>")
            elif name == "style" and "url(" in text:
                self.found.append(f"<{tag} style={text[:40]}>")
            elif name == "href" and text.startswith("data:"):
                self.found.append(f"<{tag} href=data:>")
            elif name == "http-equiv" and text != "content-security-policy":
                self.found.append(f"<meta {text}>")

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        self.in_style = False

    def handle_data(self, data):
        self.texts.append(data)
        if self.in_style and ("@import" in data or "url(" in data):
            self.found.append("<style> with a load")


def active_content(page: str) -> list[str]:
    """Everything in a page that runs, loads or submits; [] for a page that only shows."""
    finder = _Finder()
    finder.feed(page)
    return finder.found


def visible_text(page: str) -> str:
    finder = _Finder()
    finder.feed(page)
    return "".join(finder.texts)


# Texts that are hard to carry: odd line breaks, half a character, NUL, right to left, slots, markup, a megabyte.
NASTY = [
    "tell me\u0085about the fox.",
    "a line\u2028and another",
    "half a \ud800 character",
    "nothing \x00 here",
    "\u202eright to left",
    "{answer_b} {prompt} {fence}",
    "<script>alert(1)</script> & <b>",
    '=1+1,"quoted"\r\nand a break',
    "[[A]]\n### Response of a kind",
    "word " * 200_000,
]


def write_nasty(folder):
    """A file with each text once to train on and once to be asked; its name."""
    rows = [{"prompt": f"{split} {text}", "split": split} for split in ("train", "test") for text in NASTY]
    (folder / "nasty.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "nasty.jsonl")
