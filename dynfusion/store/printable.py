"""Text from files, fit for a terminal: nothing in it moves the cursor, begins a line or changes a colour."""


def printable(value: object) -> str:
    """The value as text of one line, control and other unprintable characters as `\\n`, `\\x1b` or `\\u202e`."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
