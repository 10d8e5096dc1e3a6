"""What a rewrite changed of its prompt: numbers, names, code, links, quotations, material, constraints that it lost,
language, template leftovers, and whether it answers.

Patterns and word lists hold a rewrite against its prompt; nothing here understands either: a finding says "look here".
A paraphrase can keep what its words lost ("CA" for "California"), and words can stay while their meaning goes ("bigger"
became "smaller"). Names, constraints and requests are read in English only.
"""

import re
import unicodedata
from collections import Counter
from decimal import Decimal

import regex

from nbutils.data import novelty
from nbutils.experiment.words import find_words, script_of
from nbutils.models import templates

Found = list[tuple[str, bool]]  # what the prompt has, whether the rewrite has it too

# --- words

_PART = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:'[\p{L}\p{M}\p{N}]+)*")  # of a word: "3" and "14" of "3.14"
_STRAIGHT = str.maketrans("‘’‚‛“”„‟′″", "''''\"\"\"\"'\"")
_DOTTED = re.compile(r"(?<=\b[A-Z])\.(?=[A-Z]\b)")
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_ORDINALS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_AS_NUMBER = {word: i for words in (_NUMBER_WORDS, _ORDINALS) for i, word in enumerate(words)} | {"single": 1}
_STOP_WORDS = {
    "English": "the of and to is are a an in that this these for with it its you your what how which from be can have "
    "has not do does as or by on at i my we they their he she his her when where who why will would should please",
    "French": "le la les des du une un est et dans pour que qui sur avec vous je ne pas au aux ce cette il elle nous",
    "German": "der die das und ist ein eine einen einem den dem des zu mit von für auf nicht ich sie wie im sich auch",
    "Spanish": "el la los las un una y es en con por del lo su que de para se qué cómo más al está muy este esta",
    "Italian": "il lo la gli le di che e è un una con non sono del della dei nel al si più da perché questo questa",
    "Portuguese": "o os um uma e é com por da dos das em não que de para se na seu sua mais ao são você este esta",
    "Dutch": "de het een en van op met voor zijn dat te aan er ook hoe wat je ik deze naar uit niet dit mijn zo",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _STOP_WORDS.items()}
_ENGLISH = _LANGUAGES["English"] | frozenset("into out so if but any all some me them".split())


def _plain(text: str) -> str:
    """Full-width and other compatible letters as ASCII has them, quotes straight, U.S. as US."""
    return _DOTTED.sub("", unicodedata.normalize("NFKC", text).translate(_STRAIGHT))


def split_words(text: str) -> list[str]:
    """What words of a text are made of, in lower case, without a possessive 's; each Chinese character is one."""
    words = find_words(_plain(text).casefold())
    return [part.removesuffix("'s") for word in words for part in _PART.findall(word)]


def _stems(text: str) -> set[str]:
    """The first five letters of each word that is no stop word (of all words, if all are)."""
    words = split_words(text)
    return {word[:5] for word in words if word not in _ENGLISH} or {word[:5] for word in words}


def _share_kept(text: str, rewrite: str) -> float:
    """Share of a text's stems that the rewrite has; 1 for a text without words."""
    stems = _stems(text)
    return len(stems & {word[:5] for word in split_words(rewrite)}) / len(stems) if stems else 1.0


def _without(text: str, *patterns: re.Pattern) -> str:
    for pattern in patterns:
        text = pattern.sub(" ", text)
    return text


# --- what was lost

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_ENUMERATION = re.compile(r"^[ \t]*\(?\d{1,2}[.)](?!\d)", re.M)
_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.S)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(
    r"(?:https?://|www\.)[^\s<>\"')\]]+|[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{2,24})+"
    r"|\b(?:[\w-]{1,64}\.){1,4}(?:com|org|net|edu|gov|io)\b(?:/[^\s<>\"')\]]*)?",
    re.I,
)


def find_numbers(prompt: str, rewrite: str) -> Found:
    """Numbers written in digits; "1,000" is "1000", "1.10" is "1.1", and 0 to 12 may come back as words.

    The numbers of an enumeration and digits behind a letter ("AK47") do not count. Says lost, though it is not, of
    "100k" for "100,000" and of "half" for "50%".
    """
    text = _ENUMERATION.sub(" ", _without(_plain(prompt), _FENCE, _INLINE, _LINK))
    found = [match[0] for match in _NUMBER.finditer(text) if not text[match.start() - 1 : match.start()].isalpha()]
    there = {value for literal in _NUMBER.findall(_plain(rewrite)) for value in _readings(literal)[0]}
    there |= {Decimal(_AS_NUMBER[word]) for word in split_words(rewrite) if word in _AS_NUMBER}
    return [(each, any(reading <= there for reading in _readings(each))) for each in dict.fromkeys(found)]


def _readings(literal: str) -> list[set[Decimal]]:
    """The numbers that a literal can be: "1,000" is 1000, or else 1 and 0."""
    parts = [part for part in literal.split(",") for part in ([part] if part.count(".") < 2 else part.split("."))]
    apart = {Decimal(part) for part in parts}
    return [{Decimal(literal.replace(",", ""))}, apart] if _GROUPED.fullmatch(literal) else [apart]


_TOKEN = re.compile(r"[^\W_]+(?:['&-][^\W_]+)*")
_ACRONYM = re.compile(r"[A-Z](?=[^a-z]*[A-Z0-9])[A-Z0-9&-]*s?|[A-Za-z]+[a-z][A-Z][A-Za-z0-9]*")
_JOINTS = (" ", " of ", " de ", " van ", " von ")
_TITLES = {"mr", "mrs", "ms", "dr", "prof", "st", "jr", "vs"}
_SHOUTED = (
    _ENGLISH
    | _TITLES
    | set("only must never always no yes ok important note now each one don't just very more".split())
)


def find_names(prompt: str, rewrite: str) -> Found:
    """Capitalised words within a sentence, and acronyms anywhere; neighbours are one name, kept if half of it is.

    Not read: titles and shouted lines, words that the prompt also has in lower case, German (all nouns are capitals).
    Misses names that start a sentence or are written small. Says lost of another form of the name ("CA": California).
    """
    if _language(prompt) == "German":
        return []
    text = _without(_plain(prompt), _FENCE, _INLINE, _LINK)
    small = {token for token in _TOKEN.findall(text) if token.islower()}
    names = [name for line in text.split("\n") for name in _names_of(line) if small.isdisjoint(map(str.lower, name))]
    words = split_words(rewrite)
    there, initials = set(words), "".join(word[0] for word in words if word not in _ENGLISH)
    there |= {token.lower().removesuffix("'s") for token in _TOKEN.findall(_plain(rewrite))}  # M&M, T-Bar
    return [(" ".join(name), _has_name(name, there, "".join(words), initials)) for name in dict.fromkeys(names)]


def _names_of(line: str) -> list[tuple[str, ...]]:
    tokens = list(_TOKEN.finditer(line))
    capitals = [token for token in tokens if token[0][0].isupper()]
    num_capitals = sum(token[0][0].isupper() for token in tokens[1:])
    if len(tokens) > 3 and (num_capitals > 0.75 * (len(tokens) - 1) or line.upper() == line):
        return []
    names: list[tuple[str, ...]] = []
    end = -1
    for token in capitals:
        if token[0].lower() in _SHOUTED or token[0].split("'")[0] == "I":
            continue
        before = line[max(0, token.start() - 12) : token.start()]
        if _ACRONYM.fullmatch(token[0]) or (len(token[0]) > 1 and _inside_sentence(before)):
            if names and line[end : token.start()] in _JOINTS:
                names[-1] += (token[0],)
            else:
                names.append((token[0],))
            end = token.end()
    return names


def _inside_sentence(before: str) -> bool:
    """Whether a word after these letters goes on with their sentence."""
    before = before.rstrip(" \t(")
    title = before.endswith(".") and before[:-1].rpartition(" ")[2].lower() in _TITLES
    return bool(before) and (before[-1].isalnum() or before[-1] in ",&/" or title)


def _has_name(name: tuple[str, ...], there: set[str], joined: str, initials: str) -> bool:
    """Whether half the name's words are there, or its initials, or the words that an acronym is made of."""
    kept = [_has_word(word.lower().removesuffix("'s"), there, joined) for word in name]
    short = "".join(word[0].lower() for word in name)
    spelled_out = len(name) == 1 and len(name[0]) > 1 and name[0].isupper() and name[0].lower() in initials
    return 2 * sum(kept) >= len(name) or spelled_out or (len(name) > 1 and short in there)


def _has_word(word: str, there: set[str], joined: str) -> bool:
    """Whether the word is there, or one with its beginning (Canada: Canadian), or it joined otherwise (AK47: AK-47)."""
    if word in there or word.removesuffix("s") in there:
        return True
    begin, bare = word[: max(4, len(word) - 2)], re.sub(r"[\W_]", "", word)
    return (len(word) > 4 and any(each.startswith(begin) for each in there)) or (len(bare) > 3 and bare in joined)


def find_code(prompt: str, rewrite: str) -> Found:
    """Fenced blocks and inline spans in backticks, verbatim up to blanks; code without backticks is not seen."""
    text, bare = " ".join(rewrite.split()), _FENCE.sub(" ", prompt)
    spans = [" ".join(span.split()) for span in [*_FENCE.findall(prompt), *_INLINE.findall(bare)]]
    return [(span, span in text) for span in dict.fromkeys(spans) if span]


def find_links(prompt: str, rewrite: str) -> Found:
    """URLs, e-mail addresses, bare domains of a few endings; scheme, www. and a last slash may change."""
    there = _bare_links(rewrite)
    return [(link, link in there) for link in _bare_links(prompt)]


def _bare_links(text: str) -> list[str]:
    links = [re.sub(r"^(?:https?://)?(?:www\.)?", "", link.lower()) for link in _LINK.findall(text)]
    return list(dict.fromkeys(link.rstrip("/.,;:!?") for link in links))


_QUOTED = re.compile(r"(?<![^\s(\[:,=])(?:\"(\S[^\"\n]{0,400})\"(?!\w)|'(\S[^'\n]{0,400})'(?!\w)|«([^»\n]{1,400})»)")


def find_quotes(prompt: str, rewrite: str) -> Found:
    """What stands in quotation marks, one line at most; kept if four fifths of its words are there, marks or not.

    Says lost of a request in quotation marks that was put otherwise.
    """
    quotes = [next(filter(None, each)).strip() for each in _QUOTED.findall(_without(_plain(prompt), _FENCE, _INLINE))]
    words, there = {quote: set(split_words(quote)) for quote in quotes}, set(split_words(rewrite))
    return [(quote, len(each & there) >= 0.8 * len(each)) for quote, each in words.items() if each]


def find_material(prompt: str, rewrite: str) -> Found:
    """What stands below the instruction: each later paragraph; in a single one, all after its first line or colon.

    Kept if half of its words are there. Misses material that stands above the instruction or follows without a colon;
    rules given in several paragraphs and then shortened read as lost.
    """
    blocks = [block for block in re.split(r"\n[ \t]*\n", prompt.strip()) if split_words(block)]
    if len(blocks) == 1:
        blocks = re.split(r"\n|(?<=.{10}:) ", blocks[0], maxsplit=1)
    return [(block, _share_kept(block, rewrite) >= 0.5) for block in blocks[1:] if split_words(block)]


_COUNT = rf"(\d{{1,5}}|{'|'.join(_NUMBER_WORDS)}|single)"
_MOST = r"at most|no more than|not more than|up to|under|below|within|max(?:imum)?(?: of)?|(?:less|fewer) than"
_LEAST = r"at least|no (?:less|fewer) than|min(?:imum)?(?: of)?|more than|over"
_LENGTH = re.compile(
    rf"(?:\b(no more than|{_LEAST}|{_MOST})\s+)?\b{_COUNT}[\s-]+(?:[a-z]+\s+)?"
    r"(word|sentence|line|paragraph|bullet point|bullet|character|letter|page|stanza|verse|syllable)s?\b"
    r"(?:\s+(or (?:less|fewer|more)|max(?:imum)?|min(?:imum)?|at (?:most|least)))?",
    re.I,
)
_FORMAT = re.compile(
    r"\b(?:in|as|into|to|using|with)\s+(?:an?\s+)?(?:(?!the|this|that|these|following|given|my|your)[\w-]+\s+)?"
    r"((?:JSON|XML|YAML|CSV|HTML|LaTeX|markdown|table|bullet(?:ed)? (?:points?|list)|bullets|numbered list|haiku"
    r"|limerick|sonnet|iambic pentameter|plain text|code block|(?:first|second|third) person|(?:past|present) tense"
    r"|(?:active|passive) voice|English|French|German|Spanish|Italian|Portuguese|Dutch|Russian|Chinese|Japanese|Korean"
    r"|Arabic|Hindi|Turkish|Polish|Swedish|Greek|Hebrew|Python|Java|JavaScript|TypeScript|SQL|Rust|PHP|Ruby)(?!\w))",
    re.I,
)
_PHRASE = r"((?:[\w'-]+[ \t]*){1,6})"
_FORBIDDEN = re.compile(
    r"(?:(?:^|[.!?,;:(]|\b(?:and|but|please|then|also))[ \t]*(?:do not|don't|dont|never|avoid)"
    rf"|\b(?:must|should)(?: not|n't)|\bwithout)\s+{_PHRASE}",
    re.I | re.M,
)
_REQUIRED = re.compile(
    rf"\bmust\s+(?!not\b){_PHRASE}|(?:^|[.!?,;:(][ \t]*)only\s+{_PHRASE}"
    r"|\b(?:use|using|answer|respond|reply|return|write|output|give|include|list|provide|in|with|by)\s+only\s+"
    rf"{_PHRASE}",
    re.I | re.M,
)
_NEGATION = re.compile(r"\b(?:not|no|none|never|without|avoid\w*|exclud\w*|refrain\w*|free)\b|n't\b", re.I)


def find_constraints(prompt: str, rewrite: str) -> Found:
    """Lengths, formats and languages asked for; do not, without, never, avoid; must, only.

    A length is kept with its number and unit, unless at most became at least; a format or language with its words; the
    others with half the words that follow, and what was forbidden with a negation somewhere in the rewrite. Misses
    what is said otherwise ("keep it brief"), and a negation that moved to another verb.
    """
    prompt, rewrite = _without(_plain(prompt), _FENCE), _plain(rewrite)
    lengths = _lengths(rewrite) + _lengths(re.sub(r"\ban?\s", "one ", rewrite, flags=re.I))
    found = [(each[0], any(_same_length(each, other) for other in lengths)) for each in _lengths(prompt)]
    found += [(match[0], _share_kept(match[1], rewrite) == 1) for match in _FORMAT.finditer(prompt)]
    negated = bool(_NEGATION.search(rewrite))
    for match in _FORBIDDEN.finditer(prompt):
        found.append((match[0], negated and _share_kept(match[1], rewrite) >= 0.5))
    for match in _REQUIRED.finditer(prompt):
        found.append((match[0], _share_kept(match[1] or match[2] or match[3], rewrite) >= 0.5))
    return list(dict.fromkeys((shown.strip(" .!?,;:(\n\t"), kept) for shown, kept in found))


def _lengths(text: str) -> list[tuple[str, int, str, str]]:
    """(text, number, unit, most | least | "") of each length in a text."""
    return [
        (match[0], int(_AS_NUMBER.get(match[2].lower(), match[2])), match[3].lower(), _bound(match[1] or match[4]))
        for match in _LENGTH.finditer(text)
    ]


def _bound(words: str | None) -> str:
    if not words:
        return ""
    return "least" if re.fullmatch(rf"{_LEAST}|or more", words.lower()) else "most"


def _same_length(first: tuple, second: tuple) -> bool:
    return first[1:3] == second[1:3] and {first[3], second[3]} != {"most", "least"}


# --- what else happened


def _main_script(text: str) -> str | None:
    """The script of three quarters of the words, or None."""
    scripts = Counter(script_of(word[0]) for word in split_words(text) if word[0].isalpha())
    script, num = scripts.most_common(1)[0] if scripts else (None, 0)
    return script if num >= 0.75 * scripts.total() else None


def _language(text: str) -> str | None:
    """The language whose stop words a text has most of: three at least, and twice as many as any other's; or None."""
    words = Counter(split_words(text))
    votes = {name: sum(words[word] for word in each) for name, each in _LANGUAGES.items()}
    first, second = sorted(votes, key=lambda name: votes[name], reverse=True)[:2]
    return first if votes[first] >= max(3, 2 * votes[second]) else None


def find_languages(prompt: str, rewrite: str) -> tuple[str, str] | None:
    """(language or script of the prompt, of the rewrite) where both are known, else None.

    Scripts come first; two Latin texts go by the stop words of seven languages. Short texts are seldom known. Chinese
    and Japanese, or two languages of any other script, are not told apart.
    """
    before, after = _main_script(prompt), _main_script(rewrite)
    if before == after == "Latin":
        before, after = _language(prompt), _language(rewrite)
    return None if before is None or after is None else (before, after)


_REQUESTS = frozenset(
    "please write rewrite provide create generate give list name identify describe explain compare tell suggest "
    "compose summarize summarise discuss analyze analyse imagine design develop translate classify calculate find "
    "recommend make what how why who which when where is are do does did can could would should i'm".split()
)
_REFUSAL = re.compile(r"\s*(?:as an ai\b|i'?m sorry|i am sorry|sorry, |i'?m an ai\b|i cannot\b|i can'?t\b)", re.I)


def is_answered(prompt: str, rewrite: str, response: str | None) -> bool:
    """Whether the rewrite answers the prompt: a text that asks for nothing and stands in the response, or a refusal.

    It stands there if more than 0.8 of its tokens are in the response in their order, and its ROUGE-L with the response
    is above 0.5 and above that with the prompt. It asks by a first word of a short list, or by a question mark at the
    end. Misses an answer that the response does not resemble.
    """
    words = split_words(rewrite)
    if _REFUSAL.match(_plain(rewrite)) and not _REFUSAL.match(_plain(prompt)):
        return True
    asks = bool(words) and (words[0] in _REQUESTS or rewrite.rstrip(" \n\"'*").endswith(("?", "？", "؟")))
    if asks or not response:
        return False
    near, own = novelty.rouge_l(rewrite, response), len(novelty.tokenize(rewrite))
    shared = near * (own + len(novelty.tokenize(response))) / 2  # F = 2 LCS / (own + the response's)
    return near > 0.5 and near > novelty.rouge_l(rewrite, prompt) and shared > 0.8 * own


_SLOTS = sorted({slot for slots in templates.SLOTS.values() for slot in slots})
_LEFTOVER = re.compile(
    rf"{re.escape(templates.DELIMITER.strip())}|^[ \t]*#{{2,}} ?(?:response|instruction|input|output)\b"
    r"|<\|[^|\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|\[(?:the )?(?:start|end) of [^\]\n]{1,40}\]"
    rf"|\{{(?:{'|'.join(_SLOTS)})\}}|^[ \t]*(?:user|assistant|system|human):|\b(?:generated|seed) instruction"
    r"|\b(?:revised|rewritten|optimi[sz]ed|improved|original) (?:question|prompt|instruction)\**:"
    r"|\A(?:sure|certainly|of course)\b|\bhere(?:'s| is) (?:the|a|your) (?:revised|rewritten|optimi[sz]ed|improved)",
    re.I | re.M,
)


def find_leftovers(prompt: str, rewrite: str) -> list[str]:
    """The delimiter, marks of chat templates, slots, labels and "Sure" that the rewrite has and the prompt has not."""
    leftovers = dict.fromkeys(match[0].strip() for match in _LEFTOVER.finditer(_plain(rewrite)))
    return [each for each in leftovers if each.lower() not in _plain(prompt).lower()]
