"""What no line of the package may do: load a pickle, hand text to a shell, run text as code. Looked up in the syntax trees.

Each rule is tried on a line that breaks it, so that none can rust.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "ptychoflow"
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
ONE_EXCEPTION = "arms/ptychovit/normalization.py"
"""Writes the pickle that the external checkout asks for, and reads it back with an unpickler that knows no class."""


def name_of(node):
    """Return the dotted name of what is called, '' where it has none."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def option(call, name):
    """Return the literal value of a keyword; '?' where it is no literal, None where it is not given."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else "?"
    return None


def fault_of_call(call):
    name = name_of(call.func)
    last = name.rpartition(".")[2]
    if option(call, "allow_pickle") not in (None, False):
        return "allow_pickle"
    if name == "torch.load" and option(call, "weights_only") is not True:
        return "torch.load without weights_only=True"
    if last in ("load_model", "model_from_json") and option(call, "safe_mode") not in (None, True):
        return "keras without its safe mode"
    if last == "enable_unsafe_deserialization":
        return "keras without its safe mode"
    if name.startswith("yaml.") and last in ("load", "load_all", "full_load", "unsafe_load"):
        return "yaml without its safe loader"
    if option(call, "shell") not in (None, False) or name in ("os.system", "os.popen", "subprocess.getoutput"):
        return "a shell"
    if name in ("eval", "exec", "compile", "__import__"):
        return "text as code"
    if name in {f"{module}.{verb}" for module in UNPICKLING for verb in ("load", "loads", "open", "Unpickler")}:
        return "a pickle"
    return None


def faults(tree):
    """Yield (line, what) for everything in a syntax tree that is not allowed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (fault := fault_of_call(node)):
            yield node.lineno, fault
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if any(module.partition(".")[0] in UNPICKLING for module in modules):
                yield node.lineno, "a module that unpickles"


def test_no_source_loads_pickles_or_runs_text():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        said = [f"line {line}: {what}" for line, what in faults(ast.parse(path.read_text()))]
        if said:
            found[name] = said
    assert found.pop(ONE_EXCEPTION, [""])[0].endswith("a module that unpickles")
    assert found == {}


def test_the_one_unpickler_knows_no_class():
    tree = ast.parse((PACKAGE / ONE_EXCEPTION).read_text())
    (own,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    (method,) = (node for node in own.body if isinstance(node, ast.FunctionDef))
    assert (method.name, [type(line) for line in method.body]) == ("find_class", [ast.Raise])
    used = {name_of(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert {name for name in used if name.startswith("pickle.")} == {"pickle.dump", "pickle.UnpicklingError"}


@pytest.mark.parametrize(
    "line",
    [
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "keras.models.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "eval(text)",
        "pickle.loads(data)",
        "import joblib",
        "from pickle import load",
    ],
)
def test_each_rule_is_seen_to_be_broken(line):
    assert list(faults(ast.parse(line)))
