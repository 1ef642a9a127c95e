"""Reading recipes: one YAML file, with values that overrides replace."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from openhart.checks import listed, parse_values
from openhart.errors import UserError, reason
from openhart.reading import read_text
from openhart.training.generator.hart.recipe import HartRecipe
from openhart.training.generator.masked.recipe import MaskedRecipe
from openhart.training.generator.raster.recipe import RasterRecipe
from openhart.training.generator.recipe import GeneratorRecipe
from openhart.training.tokenizer.gumbel.recipe import GumbelRecipe
from openhart.training.tokenizer.kl.recipe import KlRecipe
from openhart.training.tokenizer.nearest.recipe import HybridRecipe, VqganRecipe
from openhart.training.tokenizer.recipe import TokenizerRecipe

Recipe = TypeVar("Recipe", TokenizerRecipe, GeneratorRecipe)

FAMILIES: Mapping[type, Sequence[type[TokenizerRecipe] | type[GeneratorRecipe]]] = {
    TokenizerRecipe: (HybridRecipe, VqganRecipe, GumbelRecipe, KlRecipe),
    GeneratorRecipe: (HartRecipe, MaskedRecipe, RasterRecipe),
}
"""The recipes of each family, which ``model.kind`` chooses from; the first is that of a recipe without it."""


def load_recipe(path: Path, kind: type[Recipe], overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and check it.

    Args:
        path: the YAML file.
        kind: :class:`TokenizerRecipe` or :class:`GeneratorRecipe`.
        overrides: ``section.name=value`` strings; values are read as YAML.

    Raises:
        UserError: if there is no such file, if it is not YAML, or if a name, type or value is not valid.
    """
    values = _parse_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold the sections of a recipe, such as run and data")
    for override in overrides or []:
        _override(values, override)
    return parse_values(_of_family(kind, values, str(path)), values, str(path))


def _of_family(kind: type[Recipe], values: dict[str, Any], where: str) -> type[Recipe]:
    """The recipe of the family that ``model.kind`` names."""
    families: dict[Any, Any] = {family.kind: family for family in FAMILIES[kind]}
    model = values.get("model")
    name = model.get("kind", next(iter(families))) if isinstance(model, dict) else next(iter(families))
    if not isinstance(name, str) or name not in families:
        raise UserError(f"{where}: model.kind must be {listed(families)}, got {name!r:.60}")
    chosen: type[Recipe] = families[name]
    return chosen


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{where} is not valid YAML: {error.problem}{place}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where} is not valid YAML: {reason(error)}") from error
    except ValueError as error:
        raise UserError(f"{where} is not valid YAML: a date or a tagged value is none") from error


def _override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not all(name.split(".")):
        raise UserError(f"an override is written section.name=value, got {override!r}")
    *sections, last = name.split(".")
    place: Any = values
    for section in sections:
        place = _step_into(place, section, name)
    value = _parse_yaml(text, f"the value of {name}")
    if isinstance(place, list):
        place[_index(place, last, name)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise UserError(f"{name} names nothing in the recipe")


def _step_into(place: Any, section: str, name: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, section, name)]
    if not isinstance(place, dict):
        raise UserError(f"{name} names nothing in the recipe: {section!r} has no parts")
    return place.setdefault(section, {})


def _index(place: list[Any], text: str, name: str) -> int:
    if not text.isdecimal() or int(text) >= len(place):
        raise UserError(f"{name}: {text!r} must be a number below {len(place)}")
    return int(text)
