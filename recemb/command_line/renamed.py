"""Old class paths in the options of a command and in the configurations that they name."""

from typing import Any

import jsonargparse
import yaml

from recemb.renamed import current_path, current_paths

MODE = "yaml with current class paths"


def with_current_paths() -> str:
    """Return the mode of a parser that reads YAML and takes old class paths for current ones."""
    load = jsonargparse.get_loader("yaml")

    def load_current(text: str) -> Any:
        return current_paths(load(text))

    jsonargparse.set_loader(MODE, load_current, (yaml.YAMLError,))
    return MODE


def current_word(word: str) -> str:
    """Return a word of a command with the class path that it is, or sets, as a current one.

    Example:
        >>> current_word("--model=models.din.DIN")
        '--model=recemb.models.din.DIN'
    """
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{current_path(value)}"
