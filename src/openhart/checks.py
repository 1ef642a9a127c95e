"""Checking of arguments, settings and recipes against the types and ranges in their annotations."""

import functools
import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from openhart.errors import UserError

F = TypeVar("F", bound=Callable[..., None])
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

PHRASES = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "is_instance_of": "must be a list",  # the only class that an annotation here names is Sequence
    "sequence_str": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of names to values",
    "model_attributes_type": "must be a mapping of names to values",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
}


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _text(value: Any) -> Any:
    if isinstance(value, str):
        check_text(value)
    return value


def _path(value: Any) -> Any:
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("must name a file or a folder")
    return value


def check_text(value: str) -> None:
    """Check that a text can be encoded as UTF-8, which text encoders require.

    Raises:
        ValueError: if the text contains a lone surrogate (half a character).
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"must be a text in UTF-8, got {value[:40]!a}") from error


Number = Annotated[float, BeforeValidator(_no_truth_value), Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
Below1 = Annotated[Number, Field(ge=0, lt=1)]
Weight = Annotated[Number, Field(ge=0, le=1e6)]
Positive = Annotated[Number, Field(gt=0, le=1e6)]
Natural = Annotated[int, Field(strict=True, ge=0, le=10**8)]
Count = Annotated[int, Field(strict=True, ge=1, le=10**8)]
Width = Annotated[int, Field(strict=True, ge=1, le=2**16)]
Depth = Annotated[int, Field(strict=True, ge=1, le=2**10)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, BeforeValidator(_text)]
PathText = Annotated[Text, BeforeValidator(_path)]


def sentence(error: ValidationError, owner: str = "") -> str:
    """One sentence about the first invalid value: its name, the requirement and the value.

    Args:
        error: pydantic's error.
        owner: where the value belongs, such as a file or a class; the sentence begins with it.
    """
    first = error.errors(include_url=False)[0]
    name = ".".join(_shown(str(part)) for part in first["loc"])
    kind, value = first["type"], reprlib.repr(first["input"])
    if kind == "missing":
        problem = f"{name} is missing"
    elif kind == "extra_forbidden":
        problem = f"there is no setting {name}"
    elif kind == "value_error":
        problem = _join(name, first["msg"].removeprefix("Value error, "))
    elif kind in PHRASES:
        problem = f"{name} {PHRASES[kind].format(**first.get('ctx', {}))}, got {value}"
    else:
        problem = f"{name} {first['msg'].replace('Input should', 'must', 1)}, got {value}"
    return f"{owner}: {problem}" if owner else problem


def _shown(name: str) -> str:
    """A name with its unprintable characters escaped."""
    return name if name.isprintable() else ascii(name)


def _join(name: str, message: str) -> str:
    """A name and a message about it; a message that is a complete sentence stays alone."""
    if message.startswith("must"):
        return f"{name} {message}"
    if not name or message.startswith(name.rpartition(".")[2]):
        return message
    return f"{name}: {message}"


def checked(function: F, name: str | None = None) -> F:
    """Wrap a constructor so that it checks its arguments against its annotations before it runs.

    Args:
        function: the ``__init__`` of a class.
        name: name in error messages; None for the name of the class.

    Returns:
        the constructor; its attribute ``settings`` is the pydantic model of its arguments. It raises
        :class:`UserError` for an argument of the wrong type, outside its range or with an unknown name.
    """
    signature, model = inspect.signature(function), _model_of(function)

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        owner = name or type(self).__name__
        if unknown := [name for name in kwargs if name not in signature.parameters]:
            raise UserError(f"{owner} has no setting {unknown[0]}; it has {', '.join(model.model_fields)}")
        given = signature.bind(self, *args, **kwargs).arguments
        parse_values(model, {name: value for name, value in given.items() if name != "self"}, owner, True)
        function(self, *args, **kwargs)

    call.settings = model  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def checked_dataclass(name: str) -> Callable[[type[T]], type[T]]:
    """As :func:`checked`, for the constructor of a dataclass; error messages call it ``name``."""

    def decorate(kind: type[T]) -> type[T]:
        kind.__init__ = checked(kind.__init__, name)  # type: ignore[method-assign]
        return kind

    return decorate


def check_settings(kind: type, values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Check settings of a class whose constructor is :func:`checked`, and add the default values.

    Args:
        kind: the class.
        values: settings by name, from a file or a recipe.
        owner: source of the values in error messages, such as a file.

    Returns:
        the value of every setting of the class.

    Raises:
        UserError: if the class has no setting of a name, or if a value has the wrong type or range.
    """
    model: type[BaseModel] = kind.__init__.settings  # type: ignore[misc]
    if unknown := [name for name in values if name not in model.model_fields]:
        known = ", ".join(model.model_fields)
        raise UserError(f"{owner} has an unknown setting {unknown[0]}; {kind.__name__} has {known}")
    parse_values(model, values, owner, strict=True)
    return {name: values.get(name, field.default) for name, field in model.model_fields.items()}


def _model_of(function: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    fields: dict[str, Any] = {
        each.name: (hints[each.name], ... if each.default is each.empty else each.default)
        for each in parameters
    }
    config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())
    return create_model("Settings", __config__=config, **fields)


def parse_values(model: type[M], values: Mapping[str, Any], owner: str, strict: bool = False) -> M:
    """Convert values to a pydantic model.

    Args:
        model: the model; its annotations state types and ranges.
        values: values by name.
        owner: source of the values in error messages, such as a file.
        strict: do not convert text to numbers; recipes allow such conversions.

    Raises:
        UserError: if a value has the wrong type or range, is missing, or is not in the model.
    """
    try:
        return model.model_validate(dict(values), strict=strict or None)  # False would undo a field's own
    except ValidationError as error:
        raise UserError(sentence(error, owner)) from error


def listed(values: Iterable[Any]) -> str:
    """Alternatives in a sentence: ``a, b or c``."""
    *others, last = (str(value) for value in values)
    return f"{', '.join(others)} or {last}" if others else last
