r"""A text without what models wrap it in: Markdown, tags, tables, invisible characters.

>>> undressed("<answer>\n> \ufeffStep\u00a02: Two.\n</answer>").strip()
'Step 2: Two.'
>>> plain("**5 + 3 = 8**, so `8`"), plain("2**3 + 4**2 = 24")
('5 + 3 = 8, so 8', '2**3 + 4**2 = 24')
"""

import re

# Every pattern here is bounded or possessive, so no text takes long.
_DRESS = [
    (r"\r\n?|[\u2028\u2029]|<br ?/?>", "\n"),
    (r"[\u00ad\u200b\u200e\u200f\u2060\ufeff]", ""),
    (r"[\u00a0\u2007\u202f\u3000]", " "),
    (r"(?i)<(?:final_)?answer>[ \t]{0,4}([^<>\n]{1,80})</", r"Answer: \1</"),
    (r"(?i)</?(?:(?:final_)?answer|response|output|result|solution|b|strong|i|em|u|p|pre|code)>", ""),
    (r"(?i)</step ?[0-9]{0,2}>", ""),
    (r"~~[^~\n]{1,400}~~ ?|<(del|s)>[^<>\n]{1,400}</\1> ?", ""),
    (r"(?m)^[ \t]{0,8}(?:>[ \t]?){1,4}", ""),
    (r"(?m)^([ \t]{0,8})\\(?:textbf|emph)\{([^{}\n]{1,80})\}", r"\1\2"),
    (r"(?m)^[ \t]{0,8}\|([^|\n]{1,40})\|([^|\n]++)\|[ \t]{0,8}$", r"\1: \2"),
    (r"(?m)^[ \t]{0,8}\\item[ \t]{0,8}", ""),
    (r"(?:\\\[|\$\$)\s*+(\\(?:boxed|fbox)\{[^\n]++)\n\s*+(?:\\\]|\$\$)", r"\1"),
    (r"(?im)^([#*_ ]{0,8}(?:the )?(?:final |correct )?answer)([*_ ]{0,4})$", r"\1:\2"),
    (r"\n\s*\n", "\n\n"),
]
_COMPILED = [(re.compile(pattern), instead) for pattern, instead in _DRESS]
_BOLD = re.compile(r"(?<![\w)*])(\*{1,3})(?=[^\s*])([^*\n]++)(?<=\S)\1(?![\w(*])")  # not the powers of 2**3 + 4**5
_UNDERLINED = re.compile(r"(?<![\w\\${}_])__(?=[^\s_])([^_\n]++)__(?![\w{])")
_CODE = re.compile(r"(?<![`\\])`([^`\n]{1,200})`(?!`)")  # not the ``quotes'' of LaTeX
_ENDS_BOLD = re.compile(r"(?<!\s)\*\*(?!\w)")
_END = re.compile(r"[*_`]{1,3}$")
FENCE = re.compile(r"\s*(?:`{3,6}|~{3,6})[\w-]{0,20}\s*")
RULE = re.compile(
    r"\s*(?:-\s*){3,}|\s*(?:[*_]\s*){3,}|\s*(?:=\s*){3,}|[ \t]{0,8}\|?(?:[ \t]{0,8}:?-{2,}+:?[ \t]{0,8}\|?){2,9}"
)


def undressed(text: str) -> str:
    """The text without tags, invisible characters and struck-out parts; tables and quotes become plain lines."""
    for pattern, instead in _COMPILED:
        text = pattern.sub(instead, text)
    return text


def plain(text: str) -> str:
    """The text without emphasis, even if one of its two marks was already removed with the label before the text."""
    text = _CODE.sub(r"\1", _UNDERLINED.sub(r"\1", _BOLD.sub(r"\2", text.strip())))
    if len(_ENDS_BOLD.findall(text)) == 1:
        return text.replace("**", "", 1).strip()
    end = _END.search(text)
    return text.removesuffix(end[0]).strip() if end and text.count(end[0]) == 1 else text
