#!/usr/bin/env python3
"""Draws the bot's screens. Reads `keyward-bot screens --output json` from stdin, and writes one sheet for
each language into a directory.

    target/debug/keyward-bot screens --output json | scripts/screens.py docs/screens

Text widths are estimated, so that a picture does not depend on the fonts of the machine.
"""

import html
import json
import pathlib
import sys
import unicodedata
from html.parser import HTMLParser

COLUMNS = 3
CARD = 330  # Width of a screen, in pixels.
GAP = 24
PAD = 14
SIZE = 14  # The font size.
LINE = 20
BUTTON = 34
FONT = "system-ui, 'Noto Sans', 'Noto Sans CJK SC', sans-serif"
MONO = "ui-monospace, 'Noto Sans Mono', monospace"


class Pieces(HTMLParser):
    """Telegram's HTML as lines of (text, style)."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.style = ""
        self.lines = [[]]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.style = tag

    def handle_endtag(self, tag):
        self.style = ""

    def handle_data(self, data):
        for number, line in enumerate(data.split("\n")):
            if number:
                self.lines.append([])
            if line:
                self.lines[-1].append((line, self.style))


def width(char, style):
    if unicodedata.combining(char) or char == "\ufe0f":
        return 0
    if unicodedata.east_asian_width(char) in "WF" or ord(char) > 0x1F000:
        return SIZE
    return SIZE * (0.62 if style == "code" else 0.56 if style == "b" else 0.53)


def words(text):
    """The units of line breaking: each word with its trailing space, and each wide character."""
    word = ""
    for char in text:
        wide = unicodedata.east_asian_width(char) in "WF"
        if wide and word:
            yield word
            word = ""
        word += char
        if char == " " or wide:
            yield word
            word = ""
    if word:
        yield word


def wrapped(line, room):
    rows, used = [[]], 0

    def put(text, style):
        if rows[-1] and rows[-1][-1][1] == style:
            text = rows[-1].pop()[0] + text
        rows[-1].append((text, style))

    for text, style in line:
        for word in words(text):
            long = sum(width(char, style) for char in word.rstrip())
            if used and used + long > room and long <= room:
                rows.append([])
                used = 0
            for char in word:
                step = width(char, style)
                if used + step > room and char != " ":
                    rows.append([])
                    used = 0
                put(char, style)
                used += step
    return rows


def drawn_text(rows, x, y):
    out = []
    for number, row in enumerate(rows):
        spans = []
        for text, style in row:
            attributes = {
                "b": ' font-weight="600"',
                "code": f' font-family="{MONO}" fill="#1c6fb8"',
            }.get(style, "")
            spans.append(f"<tspan{attributes}>{html.escape(text)}</tspan>")
        if spans:
            top = y + number * LINE + SIZE
            out.append(f'<text x="{x}" y="{top}" xml:space="preserve">{"".join(spans)}</text>')
    return out


def card(picture):
    """The SVG elements of one screen at (0, 0), and its height."""
    rows = []
    for line in Pieces(picture["text"]).lines:
        rows.extend(wrapped(line, CARD - 2 * PAD))
    bubble = len(rows) * LINE + 2 * PAD - 4
    name = html.escape(picture["screen"])
    out = [
        f'<text x="0" y="14" fill="#64748b" font-size="12">{name}</text>',
        f'<rect y="22" width="{CARD}" height="{bubble}" rx="12" fill="#fff"/>',
        *drawn_text(rows, PAD, 22 + PAD - 4),
    ]
    top = 22 + bubble + 4
    for buttons in picture["buttons"]:
        each = (CARD - 4 * (len(buttons) - 1)) / len(buttons)
        for number, label in enumerate(buttons):
            x = number * (each + 4)
            out.append(
                f'<rect x="{x:g}" y="{top}" width="{each:g}" height="{BUTTON}" rx="8" fill="#8aa9bf"/>'
                f'<text x="{x + each / 2:g}" y="{top + 22}" fill="#fff" text-anchor="middle">'
                f"{html.escape(label)}</text>"
            )
        top += BUTTON + 4
    return out, top


def sheet(pictures):
    heights = [GAP] * COLUMNS
    parts = []
    for picture in pictures:
        column = heights.index(min(heights))
        out, height = card(picture)
        x, y = GAP + column * (CARD + GAP), heights[column]
        parts += [f'<g transform="translate({x} {y})">', *out, "</g>"]
        heights[column] = y + height + GAP
    across, down = GAP + COLUMNS * (CARD + GAP), max(heights)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {down}" '
            f'width="{across}" height="{down}" font-family="{FONT}" font-size="{SIZE}" fill="#0f172a">',
            '<rect width="100%" height="100%" fill="#c9dbe6"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/screens.py DIRECTORY <docs/screens/screens.json")
    directory = pathlib.Path(sys.argv[1])
    by_language = {}
    for picture in json.load(sys.stdin):
        by_language.setdefault(picture["language"], []).append(picture)
    directory.mkdir(parents=True, exist_ok=True)
    for language, pictures in by_language.items():
        (directory / f"{language}.svg").write_text(sheet(pictures), encoding="utf-8")


main()
