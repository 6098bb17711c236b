"""Text from files, fit for a sentence: it moves no cursor, begins no line, changes no colour, and has an end."""

LONGEST = 300


def printable(value: object) -> str:
    """The value as text of one line, control and other unprintable characters as `\\n`, `\\x1b` or `\\u202e`."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def quoted(name: object) -> str:
    """A name from a file: printable, of at most LONGEST characters."""
    return printable(name)[:LONGEST]


def short(value: object) -> str:
    """What a file says, as Python writes it: of at most LONGEST characters, and `...` where it is cut."""
    text = printable(repr(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
