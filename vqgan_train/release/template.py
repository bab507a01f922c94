"""Text with named places, whose lines come and go with what is known.

    An image of ${size} pixels.     the value of `size`; the line is left out if there is none
    ?run It was logged at ${run}.   a line for when `run` has a value
    ?!run It was not logged.        a line for when it has none

A line is a sentence, so what is not known leaves no gap.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from string import Template

CONDITION = re.compile(r"\?(?P<no>!?)(?P<name>\w+) ?")


def read_template(name: str) -> str:
    """Read one of the templates beside this file."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def fill(template: str, values: Mapping[str, str | None]) -> str:
    """Put values into a template.

    Args:
        template: the text.
        values: for every place that it names; None: there is no value.

    Raises:
        KeyError: the template names a place that is not among the values.
    """
    lines = [_line(line, values) for line in template.splitlines()]
    filled = "\n".join(line for line in lines if line is not None)
    return re.sub(r"\n{3,}", "\n\n", filled) + "\n"


def inline(text: object) -> str:
    """Text of a checkpoint, which may be anybody's, as it can stand in a line of the card."""
    return " ".join(re.sub(r"[`<>|\[\]]", "", str(text)).split())


def _line(line: str, values: Mapping[str, str | None]) -> str | None:
    condition = CONDITION.match(line)
    if condition:
        if (values[condition["name"]] is None) != bool(condition["no"]):
            return None
        line = line[condition.end() :]
    template = Template(line)
    if any(values[name] is None for name in template.get_identifiers()):
        return None
    return template.substitute(values)
