"""What a mistake of the user means, in a line: words that Hydra does not know, files that may not be read."""

import re
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from benchmarks.usage import nearest

CONF = Path(__file__).parents[1] / "conf"

OPEN = ("generate", "processor", "quantization")
"""Nodes that take more keys than their YAML has."""

EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}
"""Hydra's name of a launcher -> the extra that brings it."""


def refused(error: OSError, folder: Path) -> str | None:
    """What to say of a run folder that cannot be made, or of a user's file that may not be read."""
    if not isinstance(error.filename, str):
        return None
    path, folder = Path(error.filename).absolute(), folder.absolute()
    inside = isinstance(error, PermissionError | FileExistsError | NotADirectoryError)
    if folder.is_relative_to(path) or (inside and path.is_relative_to(folder)):
        return f"{error.filename}: {error.strerror}; choose another folder="
    return unreadable(error)


def unreadable(error: OSError) -> str | None:
    """What to say of a file that may not be read; None if it is no user's."""
    if not isinstance(error, PermissionError) or not isinstance(error.filename, str):
        return None
    ours = (Path(__file__).parent, sys.prefix)
    if any(Path(error.filename).absolute().is_relative_to(place) for place in ours):
        return None
    return f"{error.filename}: {error.strerror}; whoever runs this must be allowed to read it"


def explain(error: Exception, config: str) -> str:
    """What a mistake that Hydra found means here, with the nearest names."""
    text = str(error)
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        if group == "hydra/launcher" and name in EXTRAS:
            extra = EXTRAS[name]
            return (
                f"this launcher needs the extra {extra!r}, not installed: pip install --editable '.[{extra}]'"
            )
        found = re.search(r"'(\w+)/([^'/]+)'", text)
        if found:
            group, name = found.groups()
            known = (path.stem for path in (CONF / group).glob("*.yaml"))
            return f"unknown {group} {name!r}: {nearest(name, known)}"
    if isinstance(error, OverrideParseException):
        for file in (CONF / "model").glob("*.*.yaml"):
            if error.override.lstrip("+~").startswith(f"model.{file.stem}."):
                key = file.stem.replace(".", "_")
                return f"{error.override}: a dot divides keys; write model.{key} for model.{file.stem}"
    found = re.match(r"Could not override '([^']+)'", text)
    if found:
        full = re.search(r"full_key: (\S+)", str(error.__cause__ or text))
        return unknown_key(full[1] if full and full[1].startswith(found[1]) else found[1], config)
    return text


def no_choice(config: str) -> str:
    """Of the words given, the first that chooses nothing from a group of YAMLs."""
    for word in OverridesParser.create().parse_overrides([w for w in sys.argv[1:] if not w.startswith("-")]):
        names, group = word.value(), word.key_or_group
        if group in ("", *groups(config)) and not isinstance(names, str | list):
            known = nearest(group, (path.stem for path in (CONF / group).glob("*.yaml"))) if group else ""
            return f"{word.input_line}: expected {f'names of {group}s. {known}' if group else 'key=value'}"
    return "a choice from a group must be a name, or names in [ ]"


def groups(config: str) -> set[str]:
    """Groups of YAMLs that ``conf/<config>.yaml`` chooses from."""
    defaults = OmegaConf.load(CONF / f"{config}.yaml").defaults
    return {str(name) for entry in defaults if isinstance(entry, DictConfig) for name in entry}


def unknown_key(key: str, config: str) -> str:
    """Which part of a dotted key is not there, and what is there in its place."""
    given = [word for word in sys.argv[1:] if word.split("=")[0] in groups(config)]
    parsed = OverridesParser.create().parse_overrides(given)
    choices = [
        f"{word.key_or_group}={next(word.sweep_string_iterator())}" if word.is_sweep_override() else text
        for text, word in zip(given, parsed, strict=True)
    ]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose(config, choices)
    path = key.split(".")
    for depth, part in enumerate(path):
        if not isinstance(node, DictConfig) or part not in node:
            where = ".".join(path[:depth])
            place = f" in {where}" if where else ""
            if depth and (path[depth - 1] in OPEN or node == {}):
                return f"{where} has no {part}; a + adds it: +{key}=..."
            known = (str(name) for name in node) if isinstance(node, DictConfig) else ()
            return f"unknown key {key}: {nearest(part, known)}{place}"
        node = node[part]
    return f"{key} cannot be set; --help lists the keys"
