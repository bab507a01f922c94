"""Write docs/settings.md: all settings of all commands, from the docstrings that --help shows.

python scripts/write_settings.py
"""

from command_line import Parser
from pages import ROOT

from vqgan_train.config.checks import register_schema
from vqgan_train.config.evaluation import EvaluateConfig
from vqgan_train.config.export import ExportConfig
from vqgan_train.config.preparation import (
    CheckDataConfig,
    LinksConfig,
    PackConfig,
    PrepareYfccConfig,
    SelectConfig,
)
from vqgan_train.config.run import Config
from vqgan_train.config.settings_help import list_settings, read_header
from vqgan_train.config.tokens import DecodeConfig, EncodeConfig

PAGE = ROOT / "docs" / "settings.md"

COMMANDS: dict[str, type] = {
    "train": Config,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "encode": EncodeConfig,
    "decode": DecodeConfig,
    "pack": PackConfig,
    "check_data": CheckDataConfig,
    "select": SelectConfig,
    "prepare_cc3m": LinksConfig,
    "prepare_yfcc": PrepareYfccConfig,
    "prepare_yfcc_links": LinksConfig,
}
"""Commands by the names of their files in conf/, with the dataclasses of their settings."""

INTRODUCTION = """# Settings

Every setting of every command, with the value that it has if nothing is set. `--help` prints the
same, for example `python -m vqgan_train.evaluate --help`; `--help NAME` describes one setting, and
`experiment=finetune --help` shows the values of a recipe. This page is written by
`python scripts/write_settings.py` from the dataclasses in
[vqgan_train/config](../vqgan_train/config).
"""


def main() -> None:
    """Write the page."""
    Parser(__doc__).parse_args()
    PAGE.write_text(settings_page())


def settings_page() -> str:
    """Return the text of docs/settings.md."""
    return "\n".join([INTRODUCTION, *(_section(name) for name in COMMANDS)])


def _section(command: str) -> str:
    register_schema(COMMANDS[command])
    purpose, examples = read_header(command)
    program = "python -m vqgan_train" + ("" if command == "train" else f".{command}")
    lines = [f"## {program}", "", purpose, "", *(f"    {line}" for line in examples), ""]
    lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for setting in list_settings(command, COMMANDS[command]):
        cells = (f"`{setting.name}`", setting.type, f"`{setting.default}`", setting.meaning)
        escaped = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells)
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
