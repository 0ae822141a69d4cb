"""What a package defines that has a derivative of its own, and which of it was checked.

The package is imported, and what is alive then is looked at: subclasses of the frameworks' base
classes, and objects of custom rules in the namespaces of its modules. What is defined inside a
function that was never called is not seen.
"""

import ast
import contextlib
import dis
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from gradcheck.adapters import Rule
from gradcheck.adapters.reach import codes, enclosed
from gradcheck.errors import InputError

__all__ = [
    "Definition",
    "Scan",
    "Targets",
    "checked",
    "merged",
    "qualified",
    "recorded",
    "scan",
    "table",
]

FUNCTION = "autograd.Function"
LINEN, HAIKU = "Flax Linen module", "Haiku module"

# Classes that people derive from: what to call the subclass, where the base class lives.
BASES = (
    (FUNCTION, "torch.autograd", "Function"),
    ("nn.Module", "torch.nn", "Module"),
    ("Equinox module", "equinox", "Module"),
    (LINEN, "flax.linen", "Module"),
    ("Flax NNX module", "flax.nnx", "Module"),
    (HAIKU, "haiku", "Module"),
)
RULES = {"custom_vjp": "jax.custom_vjp", "custom_jvp": "jax.custom_jvp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One thing that a package defines."""

    kind: str
    name: str  # "package.module.Class.attribute"
    place: str  # "path/of/module.py:12", "" where there is no source


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What was found, by file and line, and what could not be imported, with why."""

    definitions: tuple[Definition, ...]
    broken: Mapping[str, str]


def scan(package: str) -> Scan:
    """Return what `package`, and what is in it, defines; it must be imported already.

    Submodules called `__main__` are not imported: that would run them. What the others print goes
    to standard error.
    """
    broken: dict[str, str] = {}
    with contextlib.redirect_stdout(sys.stderr):
        names = set(_imported(sys.modules[package], broken))
    found: dict[str, Definition] = {}
    for kind, target in _alive(names):
        definition = Definition(kind=kind, name=qualified(target), place=_place(target))
        found.setdefault(definition.name, definition)
    ordered = sorted(found.values(), key=lambda d: (d.name.rpartition(".")[0], _line(d), d.name))
    return Scan(definitions=tuple(ordered), broken=broken)


def table(found: Scan, checked: Mapping[str, str] | None) -> list[str]:
    """Return the lines that say what was found; `checked` as from `checked`, None if not known."""
    if not found.definitions:
        return ["nothing with a derivative of its own is defined here"]
    rows = [(d.kind, d.name, d.place, _state(d.name, checked)) for d in found.definitions]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if checked is None:
        return [*lines, "", f"{len(rows)} found; say --checked FILE to see which were checked"]
    count = sum(d.name in checked for d in found.definitions)
    return [*lines, "", f"{len(rows)} found, {count} of them checked"]


def _state(name: str, checked: Mapping[str, str] | None) -> str:
    if checked is None:
        return ""
    if name not in checked:
        return "NOT CHECKED"
    return f"within {checked[name]}" if checked[name] else "checked"


def _imported(module: ModuleType, broken: dict[str, str]) -> Iterator[str]:
    yield module.__name__
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        name = f"{module.__name__}.{info.name}"
        if info.name == "__main__":
            continue
        try:
            inside = importlib.import_module(name)
        except (Exception, SystemExit) as error:
            broken[name] = " ".join(f"{type(error).__name__}: {error}".split())
        else:
            yield from _imported(inside, broken)


def _alive(modules: set[str]) -> Iterator[tuple[str, Any]]:
    for kind, base in _bases():
        for subclass in _subclasses(base):
            if subclass.__module__ in modules:
                yield kind, subclass
    libraries = [value for name in modules for value in vars(sys.modules[name]).values()]
    for name, operator in _operators().items():
        if hasattr(operator, "_init_fn"):
            if operator._init_fn.__module__ in modules:
                yield "torch.library.custom_op", operator
        elif any(name in _defined(library) for library in libraries):
            yield "torch.library.Library", operator
    for name in sorted(modules):
        for value in _values(sys.modules[name]):
            if (rule := _rule(value)) is None:
                continue
            subject = _subject(value)
            if getattr(subject, "__module__", None) in modules:
                yield rule, subject


def _bases() -> Iterator[tuple[str, type]]:
    """Return the base classes of the frameworks that are loaded."""
    for kind, home, name in BASES:
        if (base := getattr(sys.modules.get(home), name, None)) is not None:
            yield kind, base


def _subclasses(base: type) -> Iterator[type]:
    subclasses: list[type] = type.__subclasses__(base)
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)


def _operators() -> dict[str, Any]:
    """Return the operators with a derivative in Python, by PyTorch's name, "namespace::name".

    They are what `torch.library.custom_op` made, else what `torch.ops` holds; PyTorch has lists.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    found = {}
    for key in getattr(torch.library, "_impls", ()):  # "namespace/name.overload/dispatch key"
        namespace, name, dispatch_key = key.split("/")
        if dispatch_key == "Autograd" and namespace not in TORCH_NAMESPACES:
            packet = getattr(getattr(torch.ops, namespace), name.partition(".")[0], None)
            found[f"{namespace}::{name.partition('.')[0]}"] = packet
    made = getattr(sys.modules.get("torch._library.custom_ops"), "OPDEFS", {})
    kept = {name: made.get(name, packet) for name, packet in found.items()}
    return {name: operator for name, operator in kept.items() if _has_backward(operator)}


def _has_backward(operator: Any) -> bool:
    """Whether an operator has a derivative; PyTorch gives each `custom_op` the dispatch key."""
    return operator is not None and getattr(operator, "_backward_fn", operator) is not None


def _defined(library: Any) -> set[str]:
    """Return the operators that an object of `torch.library.Library` defines."""
    is_library = type(library).__name__ == "Library" and type(library).__module__ == "torch.library"
    return getattr(library, "_op_defs", set()) if is_library else set()


def _operator(target: Any) -> Any:
    """Return what an author made of an operator that was taken from `torch.ops`."""
    if type(target).__module__ != "torch._ops":
        return target
    packet = getattr(target, "overloadpacket", target)
    return _operators().get(getattr(packet, "_qualified_op_name", ""), packet)


def _values(module: ModuleType) -> Iterator[Any]:
    """Return what a module and its classes hold, and what decorators wrapped in it."""
    namespaces: list[Any] = [module]
    for namespace in namespaces:  # it grows
        for value in list(vars(namespace).values()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                namespaces += [value] if value not in namespaces else []
            yield from _unwrapped(value)


def _unwrapped(value: Any) -> Iterator[Any]:
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    while value is not None:
        yield value
        # Looked up, not asked for: some objects have an attribute of every name.
        value = getattr(value, "__dict__", {}).get("__wrapped__")


def _rule(value: Any) -> str | None:
    kind = type(value)
    if kind is Rule:
        return "gradcheck.Rule"
    return RULES.get(kind.__name__) if kind.__module__.split(".")[0] == "jax" else None


def qualified(target: Any) -> str:
    """Return the name by which a definition is known: its module and its place in there."""
    if type(target).__module__ == "torch._ops":
        return str(getattr(target, "_qualified_op_name", target))
    source = getattr(target, "_init_fn", target)  # of an operator, the function
    name = getattr(source, "__qualname__", None) or type(source).__qualname__
    return f"{getattr(source, '__module__', None) or type(source).__module__}.{name}"


def _place(target: Any) -> str:
    source = inspect.unwrap(getattr(target, "_init_fn", target))
    try:
        if isinstance(source, type):
            file, line = _place_of_class(source)
        else:
            file, (_, line) = inspect.getsourcefile(source) or "", inspect.getsourcelines(source)
    except (OSError, TypeError, SyntaxError, ValueError, LookupError):
        return ""
    path = Path(file)
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"


def _place_of_class(source: type) -> tuple[str, int]:
    """Return file and line; a package may say of a class that it is its own, to hide a module.

    Raises:
        LookupError: it is not in the text of its module, nor in that of one within.
    """
    within, name = f"{source.__module__}.", source.__qualname__
    homes = [sys.modules[source.__module__]]
    homes += [
        module
        for key, module in sorted(sys.modules.items())
        if key.startswith(within) and vars(module).get(name) is source
    ]
    for file in filter(None, map(inspect.getsourcefile, homes)):
        if (line := _class_lines(file).get(name)) is not None:
            return file, line
    raise LookupError(name)


@lru_cache(maxsize=64)  # `inspect` reads and parses the whole file again for each class of it
def _class_lines(file: str) -> dict[str, int]:
    """Return the line at which each class of a file begins, by its qualified name."""
    lines: dict[str, int] = {}
    queue: list[tuple[str, ast.AST]] = [("", ast.parse(Path(file).read_bytes()))]
    for prefix, node in queue:  # it grows
        for child in ast.iter_child_nodes(node):
            within = prefix
            if isinstance(child, ast.ClassDef):
                first = child.decorator_list[0] if child.decorator_list else child
                lines[prefix + child.name] = first.lineno
                within = f"{prefix}{child.name}."
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                within = f"{prefix}{child.name}.<locals>."
            queue.append((within, child))
    return lines


def _line(definition: Definition) -> int:
    return int(definition.place.rpartition(":")[2] or 0)


class Targets:
    """The names of the targets that were checked, and of the definitions that they are made of.

    A rule is "within" a checked target if the target's code names it, directly or through functions
    of the same author; a module is, if it is an attribute of the target, however deep. Modules of
    Flax Linen and Haiku are made when the code runs, so that for them the name is enough.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # name -> the target that it is within, "" if it is one

    def add(self, target: Any) -> None:
        """Record `target`; to be called with what was handed to `gradcheck.check`."""
        subject = _subject(target)
        own = qualified(subject)
        self.names[own] = ""
        for part in _reached(target, subject):
            self.names.setdefault(qualified(part), own)

    def drain(self) -> list[tuple[str, str]]:
        """Return what was recorded since the last time."""
        names, self.names = self.names, {}
        return sorted(names.items())


def recorded(names: Iterable[tuple[str, str]]) -> str:
    """Return the text of a file of checked targets, as `checked` reads it."""
    kept = merged(names)
    lines = (f"{name}{WITHIN}{outer}" if outer else name for name, outer in sorted(kept.items()))
    return "\n".join([HEADER, *lines, ""])


def merged(names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return name -> the target it was checked within, "" where it was checked itself."""
    kept: dict[str, str] = {}
    for name, outer in names:
        kept[name] = min(kept.get(name, outer), outer)
    return kept


def checked(paths: Iterable[Path]) -> dict[str, str]:
    """Return what the files say that `pytest --gradcheck-record` wrote.

    Raises:
        InputError: one is no such file.
    """
    names: list[tuple[str, str]] = []
    for path in paths:
        try:
            header, *lines = path.read_text("utf-8").splitlines() or [""]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {str(path)!r}: {error}") from error
        if header != HEADER:
            raise InputError(
                f"expected a file that pytest --gradcheck-record wrote; {str(path)!r} begins "
                f"with {header[:40]!r}"
            )
        names += [
            (name, outer) for name, _, outer in (line.partition(" within ") for line in lines)
        ]
    return merged(names)


HEADER = "# targets that gradcheck checked"
WITHIN = " within "

# Whose code is not looked into.
FOREIGN = {"torch", "jax", "jaxlib", "flax", "haiku", "equinox", "numpy"}
FOREIGN |= {"gradcheck", "pytest", "_pytest"}
FOREIGN |= sys.stdlib_module_names
TORCH_NAMESPACES = {"aten", "prim", "prims", "quantized", "inductor", "_c10d_functional"}


def _subject(target: Any) -> Any:
    """Return the function, class, rule or operator that a target is, or is an instance of."""
    while isinstance(target, partial):
        target = target.func
    target = _operator(target)
    owner = getattr(target, "__self__", None)
    if isinstance(owner, type):  # Function.apply
        return owner
    if isinstance(target, Rule):
        return target.vjp if _is_foreign(target.forward) else target.forward  # NumPy's, say
    if _is_module_class(type(owner)) and _is_foreign(target):  # such as Linen's `apply`
        return type(owner)
    is_named = isinstance(getattr(target, "__qualname__", None), str) or hasattr(target, "_init_fn")
    return target if is_named else type(target)


def _reached(target: Any, subject: Any) -> Iterator[Any]:
    """Return the definitions that `target` is made of."""
    queue, seen = [target, subject], {id(subject)}
    for value in queue:  # it grows
        if value is not subject and _is_definition(value) and not _is_foreign(value):
            yield value
        # A module takes part as an instance: who names or holds its class need not make one.
        parts = (part for part in _parts(value) if not _is_module_class(part))
        for part in (*parts, *_classes(value)):
            if id(part) not in seen and not isinstance(part, ModuleType):
                seen.add(id(part))
                queue.append(part)


def _is_definition(value: Any) -> bool:
    if not isinstance(value, type):
        is_rule = _rule(value) is not None
        return is_rule or any(value is operator for operator in _operators().values())
    return any(issubclass(value, base) for _, base in _bases())


def _is_module_class(value: Any) -> bool:
    if not isinstance(value, type):
        return False
    made_elsewhere = (FUNCTION, LINEN, HAIKU)
    return any(issubclass(value, base) for kind, base in _bases() if kind not in made_elsewhere)


def _is_foreign(value: Any) -> bool:
    home = getattr(getattr(value, "_init_fn", value), "__module__", None)
    return not isinstance(home, str) or home.partition(".")[0] in FOREIGN


def _parts(value: Any) -> Iterator[Any]:
    """Return what an object of the user's own consists of or names."""
    if isinstance(value, (list, tuple, dict)):
        yield from value.values() if isinstance(value, dict) else value
        return
    if isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
        return
    if isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
        return
    if _is_foreign(value):
        if _is_definition(type(value)):  # such as torch.nn.Sequential: what it holds may be theirs
            yield from getattr(value, "__dict__", {}).values()
        return
    for inner in _unwrapped(value):
        if isinstance(inner, FunctionType):
            yield from _named(inner)
        elif inner is not value:
            yield inner
    if isinstance(value, type):
        yield from (getattr(item, "__func__", item) for item in vars(value).values())
    elif not isinstance(value, FunctionType):
        yield from getattr(value, "__dict__", {}).values()


def _classes(value: Any) -> Iterator[type]:
    """Return the classes whose code an object of the user's own, or a class of his, runs."""
    if isinstance(value, type):
        yield from () if _is_foreign(value) else value.__bases__
    elif not isinstance(value, FunctionType) and not _is_foreign(value):
        yield type(value)


def _named(function: FunctionType) -> Iterator[Any]:
    """Return the values of the names that a function's code mentions."""
    around = list(enclosed(function).values())
    yield from around
    for code in codes(function.__code__):
        values = [function.__globals__.get(name) for name in code.co_names]
        yield from values
        if "ops" in code.co_names:  # torch.ops.namespace.name
            for name, operator in _operators().items():
                if set(name.split("::")) <= set(code.co_names):
                    yield operator
        modules = _modules([*around, *values, *_imports(code)])
        for module in modules:  # it grows
            members = [vars(module).get(name) for name in code.co_names]
            modules += [inner for inner in _modules(members) if inner not in modules]
            yield from members


def _modules(values: Iterable[Any]) -> list[ModuleType]:
    """Return the modules among `values` that somebody looks into."""
    modules = [value for value in values if isinstance(value, ModuleType)]
    return [module for module in modules if module.__name__.partition(".")[0] not in FOREIGN]


def _imports(code: CodeType) -> Iterator[Any]:
    """Return the modules that a function imports when it runs, and that are there already."""
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            yield sys.modules.get(step.argval)
