"""Guards over the whole project: layers, cycles, cheap imports, recipes, entrypoints, environment reads, images."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tasks import recipes
from tasks.recipes import RECIPES_DIR, load_recipe
from tasks.shared.contract.code_digest import sources
from tasks.shared.traces.dialect import DIALECTS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "tasks", "data")
HEAVY = ("torch", "transformers", "deepspeed", "vllm", "pandas", "datasets", "matplotlib")
RECIPES = sorted(path.stem for path in RECIPES_DIR.glob("*.toml"))
STAGES = sorted(recipes.STAGES)
# other meanings: names of checkpoints, a key of an event
NO_STAGES = {"tasks.shared.config.evaluation": {"sft", "rl"}, "tasks.shared.reporting.nights": {"report"}}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
SHARED = [name for name in MODULES if name == "tasks.shared" or name.startswith("tasks.shared.")]


def imports(path: Path, everywhere: bool = True) -> Iterator[str]:
    """Modules that a file imports: anywhere in it, or at import time alone (not in functions, not for types)."""
    tree = ast.parse(path.read_text())
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: relative import"
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (name for alias in node.names if (name := f"{node.module}.{alias.name}") in MODULES)
        skipped = not everywhere and (isinstance(node, ast.FunctionDef) or _is_for_types(node))
        if not skipped:
            waiting += ast.iter_child_nodes(node)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def may_import_prefect(module: str) -> bool:
    return (
        is_below(module, "flows")
        or is_below(module, "tasks.launch")
        or bool(re.fullmatch(r"tasks\.\w+\.task", module))
    )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_layers(module: str) -> None:
    stage = module.split(".")[1] if module.startswith("tasks.") else ""
    for name in imports(MODULES[module]):
        assert is_below(module, "flows") or not is_below(name, "flows"), (
            f"{module} imports {name}: nothing imports flows"
        )
        if is_below(name, "prefect"):
            assert may_import_prefect(module), (
                f"{module} imports {name}: only flows, tasks.launch and task.py know Prefect"
            )
        if is_below(name, "tasks.launch"):
            assert may_import_prefect(module), f"{module} imports {name}"
        if stage in STAGES and name.startswith("tasks."):
            other = name.split(".")[1]
            above = ("launch", "recipes") if module.endswith(".task") else ()
            assert other in (stage, "shared", *above), (
                f"{module} imports {name}: a stage never imports another"
            )
        if stage == "shared" and name.startswith("tasks."):
            assert name.split(".")[1] == "shared", f"{module} imports {name}: tasks.shared knows no stage"
        if is_below(module, "data"):
            assert not is_below(name, "tasks"), f"{module} imports {name}: data knows no task"
        if is_below(module, "tasks.shared.sandbox"):
            allowed = name.split(".")[0] in sys.stdlib_module_names or is_below(name, "tasks.shared.sandbox")
            assert allowed, f"{module} imports {name}: the sandbox's image holds the standard library alone"


def test_stages_are_the_folders_that_say_what_they_are() -> None:
    folders = {path.parent.name: path for path in (ROOT / "tasks").glob("*/spec.py")}
    assert sorted(folders) == STAGES
    assert all(path.with_name("main.py").is_file() for path in folders.values())
    for stage, path in folders.items():
        assert recipes.STAGES[stage].name == stage
        below = {name for name in imports(path) if is_below(name, "tasks")}
        assert below <= {*SHARED, f"tasks.{stage}.config"}, path


def test_shared_code_names_no_stage() -> None:
    """Differences between stages are in `tasks/<stage>/spec.py` and passed as arguments."""
    for module in SHARED:
        tree = ast.parse(MODULES[module].read_text())
        said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        found = sorted(said & set(STAGES) - NO_STAGES.get(module, set()))
        assert not found, (
            f"{module} writes {found}: let it be handed a StageSpec (tasks/shared/contract/spec.py)"
        )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_run_anew_for_its_own_spec_alone(stage: str) -> None:
    modules = {module_name(path) for path in sources(stage) if path.suffix == ".py"}
    specs = {name for name in modules if re.fullmatch(r"tasks\.(?!shared)\w+\.spec", name)}
    assert specs == {f"tasks.{stage}.spec"}
    assert not [name for name in modules if is_below(name, "tasks.recipes")], "a recipe is of all stages"


def test_an_unknown_stage_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=f"^stage 'distill': .* {', '.join(recipes.STAGES)}$"):
        recipes.find_stage("distill")


def test_every_shared_module_has_a_room() -> None:
    loose = [path.name for path in (ROOT / "tasks" / "shared").glob("*.py")]
    assert loose == ["__init__.py"], "what stages share lies in a package, see docs/architecture.md"


def test_the_map_names_every_room() -> None:
    rooms = {path.parent.name for path in (ROOT / "tasks" / "shared").glob("*/__init__.py")}
    for place in ("docs/architecture.md", "tasks/shared/__init__.py"):
        text = (ROOT / place).read_text()
        assert not [room for room in sorted(rooms) if not re.search(rf"(^|`){room}\b", text, re.M)], place


def test_no_import_cycles() -> None:
    graph = {
        module: {n for n in imports(path, everywhere=False) if n in MODULES}
        for module, path in MODULES.items()
    }
    done: set[str] = set()
    for start in graph:
        _refuse_cycle(start, graph, [], done)


def _refuse_cycle(module: str, graph: dict[str, set[str]], above: list[str], done: set[str]) -> None:
    assert module not in above, "import cycle: " + " -> ".join([*above[above.index(module) :], module])
    if module not in done:
        for imported in graph[module] - {module}:
            _refuse_cycle(imported, graph, [*above, module], done)
        done.add(module)


def test_flows_tasks_and_configuration_load_without_heavy_libraries() -> None:
    light = [
        name for name in MODULES if is_below(name, "flows") or re.fullmatch(r"tasks\.\w+\.(task|spec)", name)
    ]
    light += ["tasks.launch", "tasks.recipes", "tasks.shared.contract.stage", "tasks.shared.artifacts"]
    assert {f"tasks.{stage}.spec" for stage in STAGES} <= set(light)
    _import_without(light, HEAVY)


def test_stages_load_without_prefect() -> None:
    _import_without([f"tasks.{stage}.main" for stage in STAGES], ("prefect",))


def _import_without(modules: list[str], forbidden: tuple[str, ...]) -> None:
    """Import modules in their own process and check what else was loaded."""
    script = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {forbidden!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == "[]", result.stdout


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_parse_and_have_a_deployment(recipe: str) -> None:
    resolved = load_recipe(recipe)
    assert resolved.name == recipe
    assert resolved.description
    for stage in STAGES:
        resolved.for_stage(stage)
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    trained = [
        entry["parameters"]["recipe"] for entry in entries if entry["entrypoint"] == "flows.pipeline.train"
    ]
    assert trained.count(recipe) == 1, f"prefect.yaml needs one train/{recipe}"


def test_entrypoints_import_and_take_their_parameters() -> None:
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert document["pull"] == [], "a worker imports the installed project, it fetches nothing"
    names = set()
    for entry in document["deployments"]:
        module, _, function = entry["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), function)
        assert set(entry.get("parameters", {})) <= set(flow.parameters.properties)
        unsaid = [
            name for name, schema in flow.parameters.properties.items() if not schema.get("description")
        ]
        assert not unsaid, f"{entry['entrypoint']}: its docstring does not say what {unsaid} are"
        names.add(f"{flow.name}/{entry['name']}")
        assert flow.name == function, "deploy -n matches the function's name"
    assert {"again/local", "nightly/nightly"} <= names


def test_only_environment_py_reads_the_environment() -> None:
    allowed = {"tasks.shared.contract.environment"}
    for module, path in MODULES.items():
        if module in allowed or is_below(module, "tasks.shared.sandbox"):
            continue
        found = re.search(r"\bos\.(environ|getenv|putenv)\b", path.read_text())
        assert found is None, f"{module} reads the environment; do it in tasks/shared/contract/environment.py"


def test_only_text_ids_py_encodes() -> None:
    """Threads share a tokenizer, and a call of `encode` changes it."""
    for module, path in MODULES.items():
        encodes = "tokenizer.encode(" in path.read_text()
        assert not encodes or module == "tasks.shared.traces.text_ids", f"{module}: call text_ids"


def test_only_dialects_and_forms_know_their_marks() -> None:
    """Other modules use the `Dialect`; `retool_rows` reads rows in their published form."""
    deciding = {f"tasks.shared.traces.{name}" for name in ("dialect", "call_forms", "tool_form")}
    marks = {mark for dialect in DIALECTS.values() for mark in dialect.marks if re.search("[a-z]", mark)}
    marks.discard("\\boxed{")
    for module, path in MODULES.items():
        if module in {*deciding, "tasks.synthesize.retool_rows"}:
            continue
        tree = ast.parse(path.read_text())
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        docstrings = {
            ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)
        }
        constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} - docstrings
        texts = [text for text in constants if isinstance(text, str)]
        found = [mark for mark in marks for text in texts if mark in text]
        assert not found, f"{module} writes {found}: ask the dialect (tasks/shared/traces/dialect.py)"


def test_one_module_names_the_interpreter() -> None:
    """Callers take a `Tool`."""
    for module, path in MODULES.items():
        named = {name for name in imports(path) if is_below(name, "tasks.shared.sandbox.interpreter")}
        tree = ast.parse(path.read_text())
        named |= {
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and "Interpreter" in {alias.name for alias in node.names}
        }
        allowed = module == "tasks.shared.tools.interpreter" or is_below(module, "tasks.shared.sandbox")
        assert allowed or not named, f"{module}: take a Tool (tasks/shared/tools/protocol.py), see open_tool"


def test_module_docstrings_and_sizes() -> None:
    for module, path in MODULES.items():
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)) or not text.strip(), f"{module}: no module docstring"
        assert text.count("\n") <= 400, f"{module}: {text.count(chr(10))} lines; split it"


def test_what_a_field_means_stands_beside_or_above_it() -> None:
    """A comment behind the bracket that closes a field is too long for its line: it belongs above the field."""
    torn = []
    for module, path in MODULES.items():
        lines = path.read_text().splitlines()
        bodies = [
            node.body for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.ClassDef)
        ]
        fields = [node for body in bodies for node in body if isinstance(node, ast.AnnAssign)]
        last = [(field.end_lineno or 0) - 1 for field in fields if field.end_lineno != field.lineno]
        torn += [f"{module}:{line + 1}" for line in last if "  # " in lines[line]]
    assert not torn


def test_no_machine_paths_or_unfinished_work_in_the_tree() -> None:
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    marks = re.compile(re.escape(str(ROOT)) + r"|\bTO" + r"DO\b|\bFIX" + r"ME\b|NotImplemented" + r"Error")
    for name in files:
        path = ROOT / name
        if path.suffix in (".py", ".toml", ".yaml", ".md", ".txt", ".sh", "") and path.is_file():
            found = marks.search(path.read_text(errors="ignore"))
            assert found is None or path == Path(__file__), f"{name}: {found.group() if found else ''}"


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    rules = {
        name for names in re.findall(r"^([a-z][a-z -]*):", makefile, re.MULTILINE) for name in names.split()
    }
    suites = {f"test-{path.name}" for path in (ROOT / "tests").iterdir() if path.is_dir()}
    measured = {f"bench-{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")}
    known = rules | suites | measured | {"setup-vllm", "setup-trl"}
    patterns = ["*.py", "*.md", "*.toml", "*.yaml", ".ci/run", ":!CHANGELOG.md"]
    files = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    # in backticks, as a step of CI, or anywhere if the name is unambiguous
    said = re.compile(
        r"`make ([a-z][a-z-]*)|^(?:step|beside) .*make ([a-z-]+)|\bmake ((?:test|bench|setup|smol)-[a-z-]+)",
        re.MULTILINE,
    )
    for name in files:
        for found in said.finditer((ROOT / name).read_text()):
            target = next(filter(None, found.groups()))
            assert target in known or found[0].endswith("-"), f"{name}: make {target}"


def test_images_named_in_their_readme_exist() -> None:
    readme = ROOT / "images" / "README.md"
    named = set(re.findall(r"`images/([\w./-]+)`", readme.read_text())) if readme.exists() else set()
    dockerfiles = {
        path.relative_to(ROOT / "images").as_posix() for path in (ROOT / "images").rglob("Dockerfile*")
    }
    assert dockerfiles <= named, f"images/README.md does not name {sorted(dockerfiles - named)}"
    assert all((ROOT / "images" / name).exists() for name in named)
