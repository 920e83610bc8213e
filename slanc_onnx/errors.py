"""The one exception the library raises on bad input."""


class SlancError(Exception):
    """Bad input or bad usage. The message says what is wrong and what to do about it."""
