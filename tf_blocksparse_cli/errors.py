"""What goes wrong, said in a line."""

USAGE, FAILURE = 2, 1  # exit statuses: of a wrong command line, and of what else went wrong


class CommandError(Exception):
    """Ends a command with a message that says what was passed, what was expected and how to fix it.

    Args:
        message: str, one line.
        status: exit status.
    """

    def __init__(self, message, status=FAILURE):
        super().__init__(message)
        self.status = status


def one_line(error, limit=400):
    """The first sentences of an exception's message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " ..."
