"""The one exception that the command line turns into a line without a trace."""


class RecembError(ValueError):
    """A mistake that the user can mend: where, the rule, what was got, what to do.

    Everything else that escapes is a fault of the software and keeps its trace.
    """


class NotFiniteError(RecembError):
    """A step of rows that was not made, because a row would have become a number it cannot be."""
