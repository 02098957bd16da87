"""The methods of ``search``, by name."""

from recemb.command_line.search.autodim import AutoDim
from recemb.command_line.search.deeplight import DeepLight
from recemb.command_line.search.dnis import DNIS
from recemb.command_line.search.optembed import OptEmbed
from recemb.command_line.search.pep import PEP
from recemb.command_line.search.stages import Search

METHODS: dict[str, type[Search]] = {
    "dnis": DNIS,
    "optembed": OptEmbed,
    "autodim": AutoDim,
    "pep": PEP,
    "deeplight": DeepLight,
}
