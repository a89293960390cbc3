"""The plan of the house: which room may import which, and what has one owner."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "biofuse"

ROOMS = (
    ("core",),
    ("data", "encoders", "evaluation"),
    ("store",),
    ("blocks",),
    ("extract",),
    ("fusion", "heads"),
    ("predictors",),
    ("search",),
    ("model",),
    ("runs",),
    ("report",),
    ("api",),
    ("studies",),
    ("cli", "testing"),
)
"""From the ground up; rooms on one line may not import each other."""


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """Which modules each module imports, wherever in the file it does so, for type checking or to run."""
    trees = modules()
    graph = {}
    for name, tree in trees.items():
        targets = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= inner & set(trees)
                targets |= {node.module} if inner - set(trees) else set()
        graph[name] = frozenset(targets & set(trees)) - {name}
    return graph


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def test_every_module_has_a_room() -> None:
    known = {room for line in ROOMS for room in line} | {"", "__main__"}
    assert {room_of(name) for name in modules()} <= known


def test_rooms_import_only_from_the_lines_below_them() -> None:
    floor = {room: number for number, line in enumerate(ROOMS) for room in line}
    wrong = [
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if room_of(module) in floor
        and room_of(target) in floor
        and room_of(module) != room_of(target)
        and floor[room_of(target)] >= floor[room_of(module)]
    ]
    assert wrong == []


def test_nothing_imports_in_a_circle() -> None:
    left = {name: set(targets) for name, targets in imports().items()}

    def free(name: str) -> bool:
        return not left[name] & set(left) or not any(name in targets for targets in left.values())

    while gone := [name for name in left if free(name)]:
        left = {name: targets for name, targets in left.items() if name not in gone}
    assert {name: sorted(targets & set(left)) for name, targets in left.items()} == {}


def test_no_two_public_classes_have_one_name() -> None:
    names = Counter(
        node.name
        for tree in modules().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_the_record_of_a_run_is_typed_all_the_way() -> None:
    for path in sorted((SOURCE / "runs").glob("*.py")):
        assert not re.search(r"\bdict\[str, Any\]", path.read_text(encoding="utf-8")), path.name


USED_BY_OTHERS = frozenset(
    {
        # biofuse.testing: what the author of a plug-in runs
        "assert_encoder_contract",
        "assert_fusion_contract",
        "assert_head_contract",
    }
)
"""Public names whose users are other packages."""


def test_every_public_name_has_a_user_or_stands_in_the_docs() -> None:
    trees = modules()
    used: Counter[str] = Counter()
    for tree in trees.values():
        for node in ast.walk(tree):
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    used[name] += 1
                case ast.ImportFrom(names=names):
                    used.update(alias.name for alias in names)
                case ast.Constant(value=str(text)) if re.fullmatch(r"[\w.:]+", text):
                    used.update(re.split(r"[.:]", text))  # "module:Class" in a table, names in __all__
    docs = " ".join(
        p.read_text(encoding="utf-8") for p in [*ROOT.glob("*.md"), ROOT / "Makefile", *(ROOT / "docs").rglob("*.md")]
    )
    words = set(re.findall(r"\w+", docs))
    unused = []
    for module, tree in trees.items():
        for node in tree.body:
            names = [node.name] if isinstance(node, ast.ClassDef | ast.FunctionDef) else []
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                continue  # a decorator may register it, as those of commands do
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in names:
                least = 1 if isinstance(node, ast.Assign) else 0  # an assignment is itself a use in the tree
                if not name.startswith("_") and used[name] <= least and name not in words | USED_BY_OTHERS:
                    unused.append(f"{module}.{name}")
    assert unused == []


PYTHON_ALONE = {"biofuse.api.embed", "biofuse.api.estimators", "biofuse.heads.estimator"}
"""What only Python calls, and may speak its words."""


def test_messages_name_options_so_that_every_surface_can_put_them_into_its_own_words() -> None:
    """By ``option("window", "lung")``, which the terminal and the report turn into ``--window lung``."""
    from biofuse.data.config import DataConfig
    from biofuse.extract.options import ExtractOptions
    from biofuse.search.config import SearchConfig

    names = {*DataConfig.model_fields, *ExtractOptions.model_fields, *SearchConfig.model_fields} - {"device"}
    plain = re.compile(rf"(?<![\w`.-])({'|'.join(sorted(names))})=")
    found = []
    for module, tree in modules().items():
        said = [
            text
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and _called(call).endswith(("Error", "Warning"))
            for text in ast.walk(call)
            if isinstance(text, ast.Constant) and isinstance(text.value, str)
        ]
        found += [(module, text.value) for text in said if plain.search(text.value) and module not in PYTHON_ALONE]
    assert found == []


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def test_a_file_can_be_read_in_one_sitting() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(SOURCE.rglob("*.py"))}
    assert [path for path, lines in lengths.items() if lines > 900] == []  # the aim is 800
